//! The spool held against what it promises.

mod basics;
