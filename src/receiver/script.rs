//! What a receiver answers: a list of answers for the first requests, and rules that look at a request.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tonic::Code;

use super::Received;

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Everything was accepted.
    Ok,
    /// A status, usually a refusal. Made by [`Answer::status`] or [`Answer::code`].
    Reply(Reply),
    /// OTLP's partial success; a webhook is told the same in a JSON object.
    PartialSuccess {
        /// How many records were not accepted.
        rejected: i64,
        /// Why, or a warning when `rejected` is 0.
        message: String,
    },
    /// An HTTP response as it stands, for redirects and for servers that are not what they seem. When `headers` holds a
    /// `content-length` beyond the body, the connection ends where the body does. Over gRPC only its status is used.
    Raw {
        /// HTTP status.
        status: u16,
        /// Header names and values.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// Waits, then answers.
    Delay(Duration, Box<Answer>),
    /// Nothing is stored; the connection is reset without an answer. Over gRPC this ends all calls of the connection.
    Cut,
    /// The request is stored, but the reply is lost: the connection is reset.
    StoreThenCut,
    /// Never answers; the connection is reset when the receiver stops.
    Hang,
}

/// A status in both vocabularies, and what comes with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// HTTP status, used by OTLP/HTTP and the webhook.
    pub status: u16,
    /// gRPC code, used by OTLP/gRPC.
    pub code: Code,
    /// When the sender may try again.
    pub wait: Option<Wait>,
    /// What is said to the sender.
    pub message: String,
}

/// When a sender may try again: `Retry-After`, or `RetryInfo` over gRPC.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// Whole seconds.
    Seconds(u64),
    /// A point in time, so far from now. Sent as an HTTP-date, which has whole seconds and is rounded up; over gRPC the
    /// duration itself is sent.
    Date(Duration),
    /// This text as the header's value, however wrong; over gRPC as the bytes of `grpc-status-details-bin`.
    Raw(String),
}

impl Answer {
    /// The answer with this HTTP status, and over gRPC with the code that means the same.
    ///
    /// # Panics
    /// When no final HTTP status has this number.
    pub fn status(status: u16) -> Self {
        assert!((200..=599).contains(&status), "{status} is no final HTTP status");
        let code = code_of(status);
        let message = match status {
            413 => "grpc: received message larger than max".to_owned(),
            _ => format!("scripted {status}"),
        };
        Self::Reply(Reply { status, code, wait: None, message })
    }

    /// The answer with this gRPC code, and over HTTP with the status that means the same.
    pub fn code(code: Code) -> Self {
        Self::Reply(Reply { status: status_of(code), code, wait: None, message: format!("scripted {code:?}") })
    }

    /// The same status, with word of when to come back.
    ///
    /// # Panics
    /// When this is no [`Answer::Reply`].
    pub fn wait(self, wait: Wait) -> Self {
        let reply = self.into_reply();
        Self::Reply(Reply { wait: Some(wait), ..reply })
    }

    /// The same status, with this text.
    ///
    /// # Panics
    /// When this is no [`Answer::Reply`].
    pub fn message(self, message: impl Into<String>) -> Self {
        let reply = self.into_reply();
        Self::Reply(Reply { message: message.into(), ..reply })
    }

    /// The same answer, so much later.
    pub fn delay(self, by: Duration) -> Self {
        Self::Delay(by, Box::new(self))
    }

    /// Whether the request counts as stored by the receiver.
    pub fn accepts(&self) -> bool {
        match self {
            Self::Ok | Self::PartialSuccess { .. } | Self::StoreThenCut => true,
            Self::Reply(Reply { status, .. }) | Self::Raw { status, .. } => (200..300).contains(status),
            Self::Delay(_, then) => then.accepts(),
            Self::Cut | Self::Hang => false,
        }
    }

    fn into_reply(self) -> Reply {
        match self {
            Self::Reply(reply) => reply,
            other => panic!("{other:?} has no status"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => write!(f, "ok"),
            Self::Reply(Reply { status, code, wait, .. }) => {
                write!(f, "{status} ({code:?})")?;
                match wait {
                    None => Ok(()),
                    Some(Wait::Seconds(seconds)) => write!(f, ", retry after {seconds} s"),
                    Some(Wait::Date(from_now)) => write!(f, ", retry after {from_now:?}"),
                    Some(Wait::Raw(text)) => write!(f, ", retry after {text:?}"),
                }
            }
            Self::PartialSuccess { rejected, message } => write!(f, "partial success, {rejected} rejected: {message}"),
            Self::Raw { status, .. } => write!(f, "{status}"),
            Self::Delay(by, then) => write!(f, "after {by:?}: {then}"),
            Self::Cut => write!(f, "connection cut"),
            Self::StoreThenCut => write!(f, "stored, connection cut"),
            Self::Hang => write!(f, "no answer"),
        }
    }
}

/// The gRPC code that means what an HTTP status means. A Collector that has such a status behind it says mostly the same,
/// but `UNAVAILABLE` for 504 and `UNKNOWN` for 408, 413 and 500.
pub(super) fn code_of(status: u16) -> Code {
    match status {
        200..=299 => Code::Ok,
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 | 501 => Code::Unimplemented,
        408 | 504 => Code::DeadlineExceeded,
        409 => Code::Aborted,
        413 | 429 => Code::ResourceExhausted,
        500 => Code::Internal,
        502 | 503 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// The HTTP status for a gRPC code, the other way round.
fn status_of(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound | Code::Unimplemented => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

type Rule = Box<dyn Fn(&Received) -> Option<Answer> + Send + Sync>;

/// The answers of a receiver, over all its protocols.
///
/// The n-th request that can be decoded takes the n-th answer of the list, and OK when the list is used up. Then each rule
/// is asked, and the first that has an answer wins over the list.
#[derive(Default)]
pub struct Script {
    list: VecDeque<(u64, Answer)>,
    rules: Vec<Rule>,
}

impl Script {
    /// Every answer is OK.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an answer to the list.
    pub fn then(self, answer: Answer) -> Self {
        self.times(1, answer)
    }

    /// Adds the same answer so many times to the list.
    pub fn times(mut self, count: u64, answer: Answer) -> Self {
        if count > 0 {
            self.list.push_back((count, answer));
        }
        self
    }

    /// Adds a rule, which may look at the request: "400 whenever that event is among them", "413 above so many bytes".
    pub fn rule(mut self, rule: impl Fn(&Received) -> Option<Answer> + Send + Sync + 'static) -> Self {
        self.rules.push(Box::new(rule));
        self
    }

    /// The next answer of the list.
    pub(super) fn advance(&mut self) -> Answer {
        let Some((left, answer)) = self.list.front_mut() else { return Answer::Ok };
        *left -= 1;
        if *left > 0 {
            return answer.clone();
        }
        self.list.pop_front().map_or(Answer::Ok, |(_, answer)| answer)
    }

    /// What the rules say about a request.
    pub(super) fn overrule(&self, received: &Received) -> Option<Answer> {
        self.rules.iter().find_map(|rule| rule(received))
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("list", &self.list).field("rules", &self.rules.len()).finish()
    }
}

/// Why a script could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError(String);

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScriptError {}

/// Reads `STATUS[xCOUNT][:RETRY_AFTER_SECONDS]`, separated by commas: `503x3,429:2,400,200`.
impl FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(str::trim).try_fold(Self::new(), |script, step| {
            let (rest, wait) = match step.split_once(':') {
                Some((rest, wait)) => (rest, Some(wait)),
                None => (step, None),
            };
            let (status, count) = rest.split_once('x').unwrap_or((rest, "1"));
            let status = status
                .parse()
                .ok()
                .filter(|status| (200..=599).contains(status))
                .ok_or_else(|| ScriptError(format!("`{step}`: `{status}` is no HTTP status from 200 to 599")))?;
            let count = count.parse().ok().filter(|count| *count > 0).ok_or_else(|| {
                ScriptError(format!("`{step}`: `{count}` is no number of times, such as the 3 of 503x3"))
            })?;
            let answer = if status == 200 { Answer::Ok } else { Answer::status(status) };
            let answer = match wait.map(|wait| (wait, wait.parse())) {
                None => answer,
                Some(_) if status == 200 => {
                    return Err(ScriptError(format!("`{step}`: 200 has no time to wait before the next attempt")));
                }
                Some((_, Ok(seconds))) => answer.wait(Wait::Seconds(seconds)),
                Some((wait, Err(_))) => {
                    return Err(ScriptError(format!(
                        "`{step}`: `{wait}` is no number of seconds, such as the 2 of 429:2"
                    )));
                }
            };
            Ok(script.times(count, answer))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_a_list_of_answers() {
        let mut script: Script = "503x3, 429:2,400,413x2:7,200".parse().unwrap();
        let wanted = [
            Answer::status(503),
            Answer::status(503),
            Answer::status(503),
            Answer::status(429).wait(Wait::Seconds(2)),
            Answer::status(400),
            Answer::status(413).wait(Wait::Seconds(7)),
            Answer::status(413).wait(Wait::Seconds(7)),
            Answer::Ok,
            Answer::Ok,
        ];
        for answer in wanted {
            assert_eq!(script.advance(), answer);
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_step() {
        for (text, named) in [
            ("", "`` is no HTTP status"),
            ("503,", "`` is no HTTP status"),
            ("503,abc", "`abc`"),
            ("99", "`99` is no HTTP status"),
            ("600", "`600` is no HTTP status"),
            ("503x0", "`0` is no number of times"),
            ("503x", "`503x`"),
            ("429:soon", "`soon` is no number of seconds"),
            ("429:-1", "`-1` is no number of seconds"),
            ("429:2x3", "`2x3` is no number of seconds"),
            ("200:1", "200 has no time to wait"),
        ] {
            let error = text.parse::<Script>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
