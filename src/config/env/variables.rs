//! The variables themselves: name, default and meaning, each written once. The README's table is checked against [`VARIABLES`].

/// A variable that is honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What holds when it is unset or empty: a value, or words where none can be written.
    pub default: &'static str,
    /// What it means, with its unit.
    pub meaning: &'static str,
}

/// Makes of each line a documented constant that holds the name, and a row of [`VARIABLES`].
macro_rules! variables {
    ($(#[doc = $meaning:literal] $name:ident = $default:literal;)*) => {
        $(
            #[doc = $meaning]
            #[doc = concat!("\n\nDefault: ", $default, ".")]
            pub const $name: &str = stringify!($name);
        )*

        /// Every variable that is honoured, in the order of the README's table.
        pub static VARIABLES: &[Variable] = &[
            $(Variable { name: $name, default: $default, meaning: $meaning.trim_ascii() },)*
        ];
    };
}

variables! {
    /// `true`: nothing is exported, which is said aloud
    OTEL_SDK_DISABLED = "false";
    /// List of destinations: `otlp`, `console` (standard output), `webhook`, `file`; or `none`, said aloud
    OTEL_LOGS_EXPORTER = "otlp";
    /// Not supported: a start with it set is refused, because it would make all other variables void
    OTEL_CONFIG_FILE = "unset";

    /// Protocol of all signals: `grpc`, `http/protobuf`, `http/json`
    OTEL_EXPORTER_OTLP_PROTOCOL = "grpc";
    /// The same for logs only; wins
    OTEL_EXPORTER_OTLP_LOGS_PROTOCOL = "the general one";
    /// Receiver of all signals: for gRPC `http(s)://host:port` or `host:port`, for HTTP the base URL to which `v1/logs` is added
    OTEL_EXPORTER_OTLP_ENDPOINT = "port 4317 (gRPC) or 4318 (HTTP) of `localhost`, without TLS";
    /// Receiver of logs; for HTTP the complete URL, used as it is; wins
    OTEL_EXPORTER_OTLP_LOGS_ENDPOINT = "the general one";
    /// Headers of all signals, `name=value,name=value`, values percent-encoded; secret
    OTEL_EXPORTER_OTLP_HEADERS = "unset";
    /// Headers for logs; replaces the general list
    OTEL_EXPORTER_OTLP_LOGS_HEADERS = "the general one";
    /// Bound of one request in milliseconds, 0 for none
    OTEL_EXPORTER_OTLP_TIMEOUT = "10000";
    /// The same for logs only; wins
    OTEL_EXPORTER_OTLP_LOGS_TIMEOUT = "the general one";
    /// `gzip` or `none`
    OTEL_EXPORTER_OTLP_COMPRESSION = "none";
    /// The same for logs only; wins
    OTEL_EXPORTER_OTLP_LOGS_COMPRESSION = "the general one";
    /// `true`: a gRPC endpoint written without `http://` or `https://` is spoken to without TLS
    OTEL_EXPORTER_OTLP_INSECURE = "false";
    /// The same for logs only; wins
    OTEL_EXPORTER_OTLP_LOGS_INSECURE = "the general one";
    /// PEM file of the authorities to trust
    OTEL_EXPORTER_OTLP_CERTIFICATE = "the system's";
    /// The same for logs only; wins
    OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE = "the general one";
    /// PEM file of the client's certificate chain (mTLS)
    OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE = "unset";
    /// The same for logs only; wins
    OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE = "the general one";
    /// PEM file of the client's private key (mTLS)
    OTEL_EXPORTER_OTLP_CLIENT_KEY = "unset";
    /// The same for logs only; wins
    OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY = "the general one";

    /// `service.name` of the resource
    OTEL_SERVICE_NAME = "unknown_service:PROGRAM";
    /// Resource attributes, `name=value,name=value`, percent-encoded; win over those found by the program
    OTEL_RESOURCE_ATTRIBUTES = "unset";
    /// W3C trace context of the caller; events without their own are correlated to it
    TRACEPARENT = "unset";

    /// How long a record waits for others before it is sent, in milliseconds; 0 is taken as 10
    OTEL_BLRP_SCHEDULE_DELAY = "1000";
    /// Events accepted and not yet delivered, at most, for each destination
    OTEL_BLRP_MAX_QUEUE_SIZE = "2048";
    /// Records in one request, at most; never more than the queue holds
    OTEL_BLRP_MAX_EXPORT_BATCH_SIZE = "512";
    /// Bound of the flush at shutdown in milliseconds, 0 for none
    OTEL_BLRP_EXPORT_TIMEOUT = "30000";
    /// Most attributes of a record of any signal
    OTEL_ATTRIBUTE_COUNT_LIMIT = "128";
    /// The same for log records only; wins
    OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT = "the general one";
    /// Longest string in an attribute of any signal; the body is never cut
    OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT = "unset";
    /// The same for log records only; wins
    OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT = "the general one";

    /// What the OTLP record's body is: `map`, `json` (text, byte for byte), `message`
    AUDITWIRE_OTLP_BODY = "map";
    /// Where the webhook takes JSON arrays
    AUDITWIRE_WEBHOOK_URL = "unset";
    /// `Authorization` header, verbatim; secret
    AUDITWIRE_WEBHOOK_AUTHORIZATION = "unset";
    /// Headers, `name=value,name=value`, values percent-encoded; secret
    AUDITWIRE_WEBHOOK_HEADERS = "unset";
    /// Bound of one request, `0s` for none
    AUDITWIRE_WEBHOOK_TIMEOUT = "10s";
    /// `gzip` or `none`
    AUDITWIRE_WEBHOOK_COMPRESSION = "none";
    /// What an element is: `ocsf`, `audit`, `otlp_json`
    AUDITWIRE_WEBHOOK_FORMAT = "ocsf";
    /// PEM file of the authorities to trust
    AUDITWIRE_WEBHOOK_CERTIFICATE = "the system's";
    /// PEM file of the client's certificate chain (mTLS)
    AUDITWIRE_WEBHOOK_CLIENT_CERTIFICATE = "unset";
    /// PEM file of the client's private key (mTLS)
    AUDITWIRE_WEBHOOK_CLIENT_KEY = "unset";
    /// JSON Lines file that the `file` destination appends to
    AUDITWIRE_FILE_PATH = "unset";
    /// What a line is: `ocsf`, `audit`, `otlp_json`
    AUDITWIRE_FILE_FORMAT = "ocsf";
    /// `batch`: synced before it counts as delivered; `never`: left to the system
    AUDITWIRE_FILE_SYNC = "batch";
    /// What a line on standard output is: `ocsf`, `audit`, `otlp_json`
    AUDITWIRE_STDOUT_FORMAT = "ocsf";
    /// What an emit meets when a queue is full: `block`, `refuse`, `drop` (counted and announced)
    AUDITWIRE_ON_FULL = "block";
    /// `metadata.version` of the OCSF events: `1.4.0` to `1.9.0`
    AUDITWIRE_OCSF_VERSION = "1.8.0";
    /// Where records that a destination refuses for good are kept
    AUDITWIRE_DEAD_LETTER_PATH = "`dead-letters.jsonl` in the state folder";
    /// Folder of state files (XDG): the dead letters lie in `auditwire/` there
    XDG_STATE_HOME = "$HOME/.local/state";
    /// Home folder; without one the dead letters are `auditwire-dead-letters.jsonl` in the working folder
    HOME = "unset";
    /// Largest accepted event as OCSF JSON
    AUDITWIRE_MAX_EVENT_BYTES = "1MiB";
    /// How long dropping the last handle waits for delivery
    AUDITWIRE_SHUTDOWN_TIMEOUT = "5s";
    /// Folder of the durable queue: events are accepted once they are on disk, and survive the process
    AUDITWIRE_SPOOL_DIR = "unset: events wait in memory";
    /// When an event is accepted: `sync` once it is on the device; `interval=500ms` before, and synced that much later; `memory`: no spool
    AUDITWIRE_SPOOL_MODE = "sync";
    /// Bytes the spool may take
    AUDITWIRE_SPOOL_MAX_BYTES = "1GiB";
    /// How long an emit waits for room in a full spool under `block`
    AUDITWIRE_SPOOL_BLOCK_TIMEOUT = "as long as it takes";
    /// Destinations by best effort, `name=events,name=events`: one that lags further behind loses its oldest, counted and announced
    AUDITWIRE_SPOOL_BEST_EFFORT = "none: all are required";
    /// Destinations, `name,name`, that start behind the newest event when they are new to the spool
    AUDITWIRE_SPOOL_START_AT_END = "none: all start at the oldest";
    /// Most events a second that each destination is fed with from the spool
    AUDITWIRE_SPOOL_DRAIN_RATE = "as it can take";
    /// Product that reports events which name none; goes with a vendor
    AUDITWIRE_PRODUCT_NAME = "unset";
    /// Vendor of that product
    AUDITWIRE_PRODUCT_VENDOR = "unset";
    /// Version of that product
    AUDITWIRE_PRODUCT_VERSION = "unset";
}
