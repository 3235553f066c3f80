//! The steps between an event's text and what a destination gets, each by itself, for `benches/event.rs`: what it measures is what a
//! pipeline calls. Not an interface for anybody else.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry::InstrumentationScope;
use opentelemetry::logs::{Logger as _, LoggerProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, SdkLogRecord, SdkLogger, SdkLoggerProvider};

use crate::config::{ConfigError, Destination, Limits};
use crate::exporter::{Encoding, Exporter, Pool};
use crate::otlp::SCOPE_NAME;
use crate::record;

/// What one destination does with a text.
#[derive(Debug)]
pub struct Steps {
    logger: SdkLogger,
    scope: InstrumentationScope,
    exporter: Exporter,
    encoding: Encoding,
    is_record_read: bool,
    pool: Pool,
}

impl Steps {
    /// `extended`: a processor of the user's looks at the records on their way.
    ///
    /// # Errors
    /// The destination cannot be what it says.
    pub fn new(destination: &Destination, extended: bool) -> Result<Self, ConfigError> {
        let (exporter, encoding) = Exporter::new(destination, &Resource::builder().build())?;
        let encoding = if extended { encoding } else { encoding.of_text(Limits::default()) };
        Ok(Self {
            logger: SdkLoggerProvider::builder().build().logger(SCOPE_NAME),
            scope: InstrumentationScope::builder(SCOPE_NAME).build(),
            exporter,
            is_record_read: extended || encoding.reads_record(),
            encoding,
            pool: Pool::default(),
        })
    }

    /// The record that the SDK is given: a whole one where anybody reads it, else one that carries the text.
    pub fn record(&self, event: &Arc<str>) -> SdkLogRecord {
        let mut record = self.logger.create_log_record();
        record::make(&mut record, event, SystemTime::now(), &Limits::default(), self.is_record_read);
        record
    }

    /// The body of the request with these records.
    pub fn body(&self, records: &[SdkLogRecord]) -> Vec<Bytes> {
        let records: Vec<_> = records.iter().map(|record| (record, &self.scope)).collect();
        self.exporter.body(&self.encoding.batch(&LogBatch::new(&records), &self.pool))
    }
}
