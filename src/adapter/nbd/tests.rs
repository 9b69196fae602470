use std::sync::mpsc::channel;
use std::time::Duration;

use super::{Export, Patience};
use crate::extent::{Content, Extent};
use crate::journal::record::Disposition;
use crate::port::{Blocks, PortError};
use fake::{Fake, Offer, Peer, Request, Script, content};

mod fake;

fn patience() -> Patience {
    let limit = Duration::from_secs(20);
    Patience { connect: limit, silence: limit, pauses: vec![Duration::ZERO; 2] }
}

fn open(fake: &Fake) -> Result<Export, PortError> {
    Export::connect_with(&fake.address, 4, patience())
}

fn script(script: impl FnOnce(&mut Peer) + Send + 'static) -> Script {
    Box::new(script)
}

/// A connection that answers everything truly, to its end.
fn honest(offer: Offer) -> Script {
    script(move |peer| {
        peer.shake(&offer);
        peer.serve(&offer);
    })
}

#[track_caller]
fn reads(export: &Export, offset: u64, length: u32) {
    let mut buffer = vec![0; usize::try_from(length).unwrap()];
    export.read(offset, &mut buffer).unwrap();
    assert!(buffer == content(offset, length), "{length} bytes at {offset}");
}

/// Reads 4 KiB at byte 8192 from a server that answers by a script, and checks what is said.
#[track_caller]
fn check_read(expected: &str, answer: impl FnOnce(&mut Peer, u64) + Send + 'static) -> Disposition {
    let fake = Fake::new(vec![script(|peer| {
        peer.shake(&Offer::default());
        let Request { command, cookie, offset, length } = peer.request().unwrap();
        assert_eq!((command, offset, length), (0, 8192, 4096));
        answer(peer, cookie);
        // Until the client is gone, so that it is no lost connection that ends it.
        while peer.request().is_some() {}
    })]);
    let export = open(&fake).unwrap();
    let fault = export.read(8192, &mut [0; 4096]).unwrap_err().fault;
    assert_eq!(fault.text, format!("cannot read {} at byte 8192: {expected}", fake.address));
    drop(export);
    fake.end();
    fault.disposition
}

/// Opens an export of a server that shakes hands by a script, and checks what is said.
#[track_caller]
fn check_open(expected: &str, script: impl FnOnce(&mut Peer) + Send + 'static) {
    let fake = Fake::new(vec![Box::new(script)]);
    let fault = open(&fake).unwrap_err().fault;
    assert_eq!(fault.text, format!("cannot open {}: {expected}", fake.address));
    fake.end();
}

#[test]
fn a_server_of_any_age_is_read() {
    let new = Offer::default();
    for offer in [
        new.clone(),
        Offer { allocation: false, ..new.clone() },
        Offer { sizes: None, ..new.clone() },
        Offer { structured: false, ..new.clone() },
        Offer { structured: false, go: false, ..new.clone() },
        Offer { structured: false, go: false, fixed: false, ..new.clone() },
    ] {
        let old = !offer.structured || !offer.allocation;
        let fake = Fake::new(vec![honest(offer)]);
        let export = open(&fake).unwrap();
        assert_eq!((export.size(), export.connections(), export.in_flight()), (1 << 20, 1, 16));
        reads(&export, 0, 1 << 20);
        reads(&export, 4096, 512);
        if old {
            let all = Extent { offset: 512, length: 9999, content: Content::Data };
            assert_eq!(export.extents(512, 9999), Ok(vec![all]));
        }
        let beyond = export.read(1 << 20, &mut [0]).unwrap_err().fault.text;
        assert!(beyond.ends_with("at byte 1048576: it has 1048576 bytes"), "{beyond}");
        drop(export);
        fake.end();
    }
}

#[test]
fn requests_keep_to_the_servers_block_sizes() {
    let offer = Offer { size: 300_000, sizes: Some([4096, 8192, 65536]), ..Offer::default() };
    let (sender, receiver) = channel();
    let fake = Fake::new(vec![script(move |peer| {
        peer.shake(&offer);
        loop {
            let Request { command, cookie, offset, length } = peer.request().unwrap();
            if command == 2 {
                return;
            }
            sender.send((offset, length)).unwrap();
            peer.data(cookie, 1, offset, length);
        }
    })]);
    let export = open(&fake).unwrap();
    reads(&export, 5000, 10);
    reads(&export, 5000, 100_000);
    reads(&export, 290_000, 10_000);
    drop(export);
    fake.end();
    let asked: Vec<(u64, u32)> = receiver.iter().collect();
    let expected = [(4096, 4096), (4096, 65536), (69632, 36864), (286_720, 13_280)];
    assert_eq!(asked, expected);
}

#[test]
fn holes_and_chunks_in_any_order_make_the_data() {
    let fake = Fake::new(vec![script(|peer| {
        peer.shake(&Offer::default());
        let Request { cookie, .. } = peer.request().unwrap();
        peer.data(cookie, 0, 3000, 1096);
        peer.hole(cookie, 0, 1000, 2000);
        peer.data(cookie, 0, 0, 1000);
        peer.chunk(cookie, 1, 0, b"");
        assert_eq!(peer.request().unwrap().command, 2);
    })]);
    let export = open(&fake).unwrap();
    let mut buffer = [0xee; 4096];
    export.read(0, &mut buffer).unwrap();
    assert_eq!(buffer[..1000], content(0, 1000));
    assert_eq!(buffer[1000..3000], [0; 2000]);
    assert_eq!(buffer[3000..], content(3000, 1096));
    drop(export);
    fake.end();
}

#[test]
fn replies_come_in_any_order_and_mixed() {
    const READS: u64 = 8;
    let fake = Fake::new(vec![script(|peer| {
        peer.shake(&Offer::default());
        for _ in 0..20 {
            let asked: Vec<Request> = (0..READS).map(|_| peer.request().unwrap()).collect();
            for (nth, done) in [(2, 0), (0, 0), (2, 1), (0, 1)] {
                for Request { cookie, offset, length, .. } in asked.iter().rev() {
                    let half = length / 2;
                    let part = offset + u64::from(done * half);
                    if nth == 0 && offset % 8192 == 0 || nth == 2 && offset % 8192 != 0 {
                        peer.data(*cookie, u16::try_from(done).unwrap(), part, half);
                    }
                }
            }
        }
        peer.serve(&Offer::default());
    })]);
    let export = open(&fake).unwrap();
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for nth in 0..READS {
                let export = &export;
                scope.spawn(move || reads(export, nth * 4096, 4096));
            }
        });
    }
    drop(export);
    fake.end();
}

#[test]
fn several_connections_are_made_where_the_server_allows_them() {
    let offer = Offer { multi: true, ..Offer::default() };
    let fake = Fake::new((0..3).map(|_| honest(offer.clone())).collect());
    // A fourth one is refused: three are enough.
    let export = open(&fake).unwrap();
    assert_eq!(export.connections(), 3);
    for nth in 0..6 {
        reads(&export, nth * 4096, 4096);
    }
    drop(export);
    fake.end();
}

#[test]
fn what_a_range_holds_is_told_as_far_as_the_server_tells_it() {
    let fake = Fake::new(vec![script(|peer| {
        peer.shake(&Offer { sizes: Some([512, 4096, 65536]), ..Offer::default() });
        let Request { command, cookie, offset, length } = peer.request().unwrap();
        assert_eq!((command, offset, length), (7, 512, 9216));
        let parts: [(u32, u32); 5] = [(512, 3), (512, 2), (1024, 1), (1024, 0), (1 << 30, 3)];
        let mut payload = 5_u32.to_be_bytes().to_vec();
        for (length, flags) in parts {
            payload.extend(length.to_be_bytes());
            payload.extend(flags.to_be_bytes());
        }
        peer.chunk(cookie, 1, 5, &payload);
        let Request { cookie, .. } = peer.request().unwrap();
        peer.chunk(cookie, 1, 0x8001, b"\0\0\0\x5f\0\x02no");
        let Request { cookie, .. } = peer.request().unwrap();
        peer.chunk(cookie, 1, 0x8001, b"\0\0\0\x05\0\x02no");
        while peer.request().is_some() {}
    })]);
    let export = open(&fake).unwrap();
    let extent = |offset, length, content| Extent { offset, length, content };
    assert_eq!(
        export.extents(600, 9000).unwrap(),
        [
            extent(600, 936, Content::Zero),
            extent(1536, 2048, Content::Data),
            extent(3584, 6016, Content::Zero)
        ]
    );
    // It cannot tell: that is no failure. That its storage failed is one.
    assert_eq!(export.extents(0, 512).unwrap(), [extent(0, 512, Content::Data)]);
    let error = export.extents(0, 512).unwrap_err().fault.text;
    assert_eq!(
        error,
        format!(
            "cannot ask what is allocated of {} at byte 0: the server answered with EIO (no)",
            fake.address
        )
    );
    drop(export);
    fake.end();
}

#[test]
fn an_error_ends_one_request_and_not_the_connection() {
    let fake = Fake::new(vec![script(|peer| {
        peer.shake(&Offer::default());
        let Request { cookie, .. } = peer.request().unwrap();
        peer.data(cookie, 0, 0, 512);
        peer.chunk(cookie, 0, 0x8002, b"\0\0\0\x05\0\x04bad!\0\0\0\0\0\0\x02\0");
        peer.chunk(cookie, 1, 0x8001, b"\0\0\0\x16\0\0");
        let Request { cookie, .. } = peer.request().unwrap();
        peer.chunk(cookie, 1, 0xffff, b"\0\0\0\x63\0\x03newand more");
        let Request { cookie, .. } = peer.request().unwrap();
        peer.simple(cookie, 1, b"");
        peer.serve(&Offer::default());
    })]);
    let export = open(&fake).unwrap();
    for (said, passes) in [
        ("EIO (at byte 512: bad!)", true),
        ("error 99 (new)", true),
        ("EPERM (it says no more)", false),
    ] {
        let fault = export.read(0, &mut [0; 4096]).unwrap_err().fault;
        let expected = format!("at byte 0: the server answered with {said}");
        assert!(fault.text.ends_with(&expected), "{}", fault.text);
        assert_eq!(fault.disposition == Disposition::Retry, passes);
    }
    reads(&export, 0, 4096);
    drop(export);
    fake.end();
}

#[test]
fn lies_about_data_are_found() {
    let lie = |what: &str, answer: fn(&mut Peer, u64)| {
        let lasting = check_read(&format!("the server broke the protocol: {what}"), answer);
        assert_ne!(lasting, Disposition::Retry);
    };
    lie("it answers request 99, which is not on its way", |peer, _| peer.data(99, 1, 8192, 4096));
    lie("4096 bytes at byte 4096 were not asked for", |peer, cookie| {
        peer.data(cookie, 1, 4096, 4096);
    });
    lie("4097 bytes at byte 8192 were not asked for", |peer, cookie| {
        peer.data(cookie, 1, 8192, 4097);
    });
    lie("4294967287 bytes at byte 8192 were not asked for", |peer, cookie| {
        peer.claim(cookie, 1, 1, u32::MAX, &8192_u64.to_be_bytes());
    });
    lie("4294967295 bytes at byte 18446744073709551615 were not asked for", |peer, cookie| {
        peer.hole(cookie, 1, u64::MAX, u32::MAX);
    });
    lie("512 bytes at byte 9000 came twice", |peer, cookie| {
        peer.data(cookie, 0, 8192, 1024);
        peer.hole(cookie, 0, 9000, 512);
    });
    lie("0 bytes at byte 8192 are an empty chunk", |peer, cookie| peer.hole(cookie, 1, 8192, 0));
    lie("a reply ended without the data at byte 9216", |peer, cookie| {
        peer.data(cookie, 0, 8192, 1024);
        peer.data(cookie, 1, 10240, 1024);
    });
    lie("a reply ended without the data at byte 8192", |peer, cookie| {
        peer.chunk(cookie, 1, 0, b"");
    });
}

#[test]
fn lies_about_replies_are_found() {
    let lie = |what: &str, answer: fn(&mut Peer, u64)| {
        check_read(&format!("the server broke the protocol: {what}"), answer);
    };
    lie("an empty chunk is not the last one", |peer, cookie| peer.chunk(cookie, 0, 0, b""));
    lie("it answers a read by a chunk of type 77 and 3 bytes", |peer, cookie| {
        peer.chunk(cookie, 1, 77, b"abc");
    });
    lie("it answers a read by a chunk of type 5 and 12 bytes", |peer, cookie| {
        peer.chunk(cookie, 1, 5, &[0; 12]);
    });
    lie("an error of 9 bytes is malformed", |peer, cookie| {
        peer.chunk(cookie, 1, 0x8001, b"\0\0\0\x05\0\x09bad");
    });
    lie("an error of 4294967295 bytes is malformed", |peer, cookie| {
        peer.claim(cookie, 1, 0x8001, u32::MAX, b"");
    });
    lie("an error is called 0", |peer, cookie| peer.chunk(cookie, 1, 0x8001, &[0; 6]));
    lie("more than 64 errors in one reply", |peer, cookie| {
        for _ in 0..65 {
            peer.chunk(cookie, 0, 0x8001, b"\0\0\0\x05\0\0");
        }
    });
    lie("a reply begins with 0x48545450", |peer, _| peer.send(&[b"HTTP/1.1 200 OK"]));
    lie("it sends a simple reply where chunks were agreed", |peer, cookie| {
        peer.simple(cookie, 0, &[0; 4096]);
    });
}

#[test]
fn lies_of_the_handshake_are_found() {
    check_open("the server does not greet as one of NBD does", |peer| {
        peer.send(&[b"SSH-2.0-OpenSSH_9.2"]);
    });
    check_open("the server speaks the old style of NBD only", |peer| {
        peer.send(&[b"NBDMAGIC", &0x0000_4202_8186_1253_u64.to_be_bytes()]);
    });
    let lie = |what: &str, script: fn(&mut Peer, u32)| {
        check_open(&format!("the server broke the protocol: {what}"), move |peer| {
            peer.greet(true);
            let (option, _) = peer.option();
            script(peer, option);
        });
    };
    lie("a reply to option 8 has 16385 bytes", |peer, option| {
        peer.reply(option, 3, &vec![0; 16385]);
    });
    lie("more than 100 replies to option 8", |peer, option| {
        for _ in 0..100 {
            peer.reply(option, 3, b"");
        }
    });
    lie("a reply to option 8 begins with 0x3e889045565a9, 7", |peer, _| peer.reply(7, 1, b""));
    lie("it tells no size of the export", |peer, option| {
        peer.reply(option, 1 << 31 | 1, b"");
        assert_eq!(peer.option().0, 7);
        peer.reply(7, 1, b"");
    });
    lie("it calls the export 9223372036854775808 bytes large", |peer, option| {
        peer.reply(option, 1 << 31 | 1, b"");
        assert_eq!(peer.option().0, 7);
        peer.reply(7, 3, b"\0\0\x80\0\0\0\0\0\0\0\0\0");
    });
    lie("a reply to option 7 is too short", |peer, option| {
        peer.reply(option, 1 << 31 | 1, b"");
        assert_eq!(peer.option().0, 7);
        peer.reply(7, 3, b"\0\0\0");
    });
    lie("it names impossible block sizes: 0, 4096 and 65536", |peer, option| {
        peer.reply(option, 1 << 31 | 1, b"");
        assert_eq!(peer.option().0, 7);
        peer.reply(7, 3, b"\0\x03\0\0\0\0\0\0\x10\0\0\x01\0\0");
    });
}

#[test]
fn a_refusal_names_its_reason() {
    for (kind, said, passes) in [
        (5, "it demands TLS, which is not supported (what\u{fffd} now)", false),
        (6, "it has no export of this name (what\u{fffd} now)", false),
        (7, "it is shutting down (what\u{fffd} now)", true),
        (77, "error type 0x8000004d (what\u{fffd} now)", false),
    ] {
        let fake = Fake::new(vec![script(move |peer| {
            peer.greet(true);
            for _ in 0..2 {
                let (option, _) = peer.option();
                peer.reply(option, (1 << 31) + kind, b"what\xff\x1bnow");
            }
        })]);
        let fault = open(&fake).unwrap_err().fault;
        let expected =
            format!("cannot open {}: the server refused the export: {said}", fake.address);
        assert_eq!(fault.text, expected);
        assert_eq!(fault.disposition == Disposition::Retry, passes);
        fake.end();
    }
}

#[test]
fn a_lost_connection_is_made_again_and_what_was_on_its_way_is_asked_again() {
    let fake = Fake::new(vec![
        script(|peer| {
            peer.shake(&Offer::default());
            let asked: Vec<Request> = (0..4).map(|_| peer.request().unwrap()).collect();
            let Request { cookie, offset, .. } = asked[2];
            // In the middle of a chunk.
            peer.claim(cookie, 1, 1, 8 + 4096, &offset.to_be_bytes());
        }),
        // Again, within the handshake.
        script(|peer| peer.greet(true)),
        honest(Offer::default()),
    ]);
    let export = open(&fake).unwrap();
    std::thread::scope(|scope| {
        for nth in 0..4 {
            let export = &export;
            scope.spawn(move || reads(export, nth * 4096, 4096));
        }
    });
    reads(&export, 0, 4096);
    drop(export);
    fake.end();
}

#[test]
fn a_server_that_stays_away_is_given_up_and_later_tried_again() {
    let fake = Fake::new(vec![script(|peer| peer.shake(&Offer::default()))]);
    let export = open(&fake).unwrap();
    for _ in 0..2 {
        let fault = export.read(0, &mut [0; 512]).unwrap_err().fault;
        assert!(fault.text.contains("at byte 0: the server cannot be reached: "), "{}", fault.text);
        assert_eq!(fault.disposition, Disposition::Retry);
    }
    drop(export);
    fake.end();
}

#[test]
fn a_server_that_falls_over_a_request_is_left_alone() {
    let falls = || {
        script(|peer| {
            peer.shake(&Offer::default());
            peer.request().unwrap();
        })
    };
    let mut scripts: Vec<Script> = (0..6).map(|_| falls()).collect();
    scripts.push(honest(Offer::default()));
    let fake = Fake::new(scripts);
    let export = open(&fake).unwrap();
    let text = export.read(0, &mut [0; 512]).unwrap_err().fault.text;
    assert!(text.ends_with("the connection was lost: the server closed it"), "{text}");
    reads(&export, 0, 512);
    drop(export);
    fake.end();
}

#[test]
fn another_size_after_a_loss_is_refused() {
    let fake = Fake::new(vec![
        script(|peer| peer.shake(&Offer::default())),
        script(|peer| {
            peer.shake(&Offer { size: 4096, ..Offer::default() });
            assert_eq!(peer.request().unwrap().command, 2);
        }),
    ]);
    let export = open(&fake).unwrap();
    let text = export.read(0, &mut [0; 512]).unwrap_err().fault.text;
    assert!(text.ends_with("the export had 1048576 bytes and has 4096 now"), "{text}");
    drop(export);
    fake.end();
}

#[test]
fn a_silent_server_is_not_waited_for_without_end() {
    let limit = Duration::from_millis(100);
    let fake = Fake::new(vec![
        script(|peer| {
            peer.shake(&Offer::default());
            let Request { cookie, .. } = peer.request().unwrap();
            peer.claim(cookie, 1, 1, 8 + 512, &[0; 8]);
            assert_eq!(peer.request(), None);
        }),
        // One that accepts and says nothing.
        script(|peer| assert_eq!(peer.request(), None)),
    ]);
    let patience = Patience { silence: limit, pauses: Vec::new(), ..patience() };
    let export = Export::connect_with(&fake.address, 1, patience).unwrap();
    let text = export.read(0, &mut [0; 512]).unwrap_err().fault.text;
    assert!(text.ends_with("the connection was lost: no byte passed for 100ms"), "{text}");
    drop(export);
    let hasty = Patience { connect: limit, ..self::patience() };
    let text = Export::connect_with(&fake.address, 1, hasty).unwrap_err().fault.text;
    assert!(text.ends_with("the connection was lost: no answer within 100ms"), "{text}");
    fake.end();
}
