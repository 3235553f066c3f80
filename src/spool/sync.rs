//! The locks that appenders and the commit thread meet at, in one place: a test puts others here and tries their interleavings.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
