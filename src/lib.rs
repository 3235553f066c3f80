//! map (to be written)

pub mod config;
pub mod event;
pub mod ocsf;
pub mod receiver;
pub mod retry;
pub mod secret;
