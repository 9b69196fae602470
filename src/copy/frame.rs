//! Frames: a length (u32, little-endian, at most [`FRAME_MAX`]) and that many bytes of JSON.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::copy::protocol::FRAME_MAX;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The pipe failed, or ended within a frame.
    #[error("the pipe failed")]
    Pipe(#[source] io::Error),
    /// A frame announces more than [`FRAME_MAX`].
    #[error("a frame of {0} bytes is longer than the {FRAME_MAX} that one may have")]
    TooLong(usize),
    /// A frame holds no such message.
    #[error("a frame holds no message of this protocol")]
    Unreadable(#[source] serde_json::Error),
}

/// Writes one message and flushes.
pub fn write_frame<T: Serialize>(output: &mut dyn Write, message: &T) -> Result<(), FrameError> {
    let body =
        serde_json::to_vec(message).expect("messages hold nothing that JSON has no form for");
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= FRAME_MAX);
    let length = length.ok_or(FrameError::TooLong(body.len()))?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend(body);
    output.write_all(&frame).and_then(|()| output.flush()).map_err(FrameError::Pipe)
}

/// Reads one message; `None` where the pipe ends between two frames.
pub fn read_frame<T: DeserializeOwned>(input: &mut dyn Read) -> Result<Option<T>, FrameError> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < length.len() {
        match input.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Pipe(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Pipe(error)),
        }
    }
    let length = u32::from_le_bytes(length);
    let size = usize::try_from(length).expect("32 bits fit");
    if length > FRAME_MAX {
        return Err(FrameError::TooLong(size));
    }
    let mut body = vec![0; size];
    input.read_exact(&mut body).map_err(FrameError::Pipe)?;
    serde_json::from_slice(&body).map(Some).map_err(FrameError::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::protocol::ToWorker;

    #[test]
    fn frames_are_read_as_written_and_damage_is_told() {
        let mut pipe = Vec::new();
        write_frame(&mut pipe, &ToWorker::Resend).unwrap();
        write_frame(&mut pipe, &ToWorker::Acknowledge { number: 7 }).unwrap();
        let mut input = pipe.as_slice();
        assert_eq!(read_frame(&mut input).unwrap(), Some(ToWorker::Resend));
        assert_eq!(read_frame(&mut input).unwrap(), Some(ToWorker::Acknowledge { number: 7 }));
        assert_eq!(read_frame::<ToWorker>(&mut input).unwrap(), None);

        let cut = |length: usize| read_frame::<ToWorker>(&mut &pipe[..length]);
        for length in [1, 3, 4, 11] {
            assert!(matches!(cut(length), Err(FrameError::Pipe(_))), "{length}");
        }
        let long = [0xff_u8; 8];
        assert!(matches!(read_frame::<ToWorker>(&mut &long[..]), Err(FrameError::TooLong(_))));
        let foreign = [2, 0, 0, 0, b'{', b'}'];
        assert!(matches!(
            read_frame::<ToWorker>(&mut &foreign[..]),
            Err(FrameError::Unreadable(_))
        ));
    }
}
