//! What both versions of HTTP share: heads, bodies as frames, and exchanges of a request for a response.

mod body;
mod buffers;
mod convert;
mod exchange;
mod head;
mod name;
mod target;

pub use body::{BodyReader, BodyWriter, Frame, Io, PeerGone, Pump, PumpError, ResetReason, StreamError};
pub use exchange::{ClientExchange, Responder, ResponseReader, ServerExchange};
pub use head::{Head, InvalidHead, Scheme, Version};
pub use name::{InvalidName, InvalidValue, KnownHeader, Name, OwnedName, Value};

pub(crate) use buffers::{LENT, give_read, give_write, take_read, take_write};
pub(crate) use convert::{headers_from_h2, headers_to_h2, request_from_h2, request_to_h2, response_from_h2, response_to_h2};
pub(crate) use head::Span;
pub(crate) use name::{Names, list};
pub(crate) use target::{is_authority, is_origin_form};
