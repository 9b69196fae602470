//! The library in a folder.

use std::fs;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as Loaded, RTLD_LOCAL, RTLD_NOW};

use crate::raw::VixDiskLib;

/// What the library's file is called, by its major version, in the order in which they are tried.
pub const NAMES: [&str; 4] =
    ["libvixDiskLib.so.9", "libvixDiskLib.so.8", "libvixDiskLib.so.7", "libvixDiskLib.so.6"];

/// Why there is no library that could be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// None of the files is there.
    #[error(
        "there is no VDDK in {}: neither it nor its folder lib64 holds libvixDiskLib.so.9, .8, .7 or .6",
        .folder.display()
    )]
    Absent {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The system's loader refused it.
    #[error("{} cannot be loaded: {reason}", .file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// It lacks a function that every version from 6.5 on has.
    #[error("{} has no {symbol}, so it is older than VDDK 6.5 or no VDDK", .file.display())]
    TooOld {
        /// The file.
        file: PathBuf,
        /// The function.
        symbol: &'static str,
    },
}

/// The library, loaded, with all functions that a reader cannot do without.
pub struct Library {
    /// Once it was started its threads may run at any time: it stays loaded until the process ends.
    pub(crate) functions: ManuallyDrop<VixDiskLib>,
    pub(crate) folder: PathBuf,
    file: PathBuf,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Library {
    /// Loads the newest of a folder. It loads others by their names later, so the process must have been started with
    /// `FOLDER/lib64` in `LD_LIBRARY_PATH`.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let mut refused = None;
        for name in NAMES {
            for file in [folder.join("lib64").join(name), folder.join(name)] {
                if !file.exists() {
                    continue;
                }
                match Self::load_file(folder, file) {
                    Ok(library) => return Ok(library),
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
        }
        Err(refused.unwrap_or_else(|| LoadError::Absent { folder: folder.to_owned() }))
    }

    fn load_file(folder: &Path, file: PathBuf) -> Result<Self, LoadError> {
        // SAFETY: The file's initializers run. The operator named the folder, in the settings, to have them run.
        let loaded = unsafe { Loaded::open(Some(&file), RTLD_NOW | RTLD_LOCAL) };
        let functions = loaded.and_then(|library| {
            // SAFETY: Nothing is called here: the functions are looked up, and have the types of the header by the
            // documentation of the library.
            unsafe { VixDiskLib::from_library(library) }
        });
        let functions = functions.map_err(|error| LoadError::Refused {
            file: file.clone(),
            reason: std::error::Error::source(&error)
                .map_or(error.to_string(), ToString::to_string),
        })?;
        if let Some(symbol) = missing(&functions) {
            return Err(LoadError::TooOld { file, symbol });
        }
        let file = fs::canonicalize(&file).unwrap_or(file);
        Ok(Self { functions: ManuallyDrop::new(functions), folder: folder.to_owned(), file })
    }

    /// Returns the file that was loaded, links resolved.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the version as the file's name tells it: `8.0.2`, or its major number alone. The library has no call for it.
    pub fn version(&self) -> String {
        let name = self.file.file_name().map(|name| name.to_string_lossy().into_owned());
        let version = name.and_then(|name| Some(name.split_once(".so.")?.1.to_owned()));
        version.unwrap_or_else(|| "of an unknown version".to_owned())
    }
}

/// Finds a function that is not there and must be.
fn missing(functions: &VixDiskLib) -> Option<&'static str> {
    macro_rules! first_missing {
        ($($name:ident)*) => {
            [$((stringify!($name), functions.$name.is_ok())),*]
        };
    }
    let needed = first_missing!(
        VixDiskLib_InitEx VixDiskLib_Exit VixDiskLib_GetErrorText VixDiskLib_FreeErrorText
        VixDiskLib_FreeConnectParams VixDiskLib_ConnectEx VixDiskLib_Disconnect VixDiskLib_Open
        VixDiskLib_Close VixDiskLib_GetTransportMode VixDiskLib_GetInfo VixDiskLib_FreeInfo
        VixDiskLib_Read VixDiskLib_ReadAsync VixDiskLib_Wait
    );
    needed.into_iter().find(|(_, there)| !there).map(|(name, _)| name)
}
