//! The environment: standard `OTEL_` variables under their own names, ours with the prefix `AUDITWIRE_`.
