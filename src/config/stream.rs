//! The stream configuration JSON.
