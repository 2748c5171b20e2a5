//! Messages in `Any`, and messages whose maps keep their order.
//!
//! The generated types hold protobuf maps in hash maps, whose order differs from process to process. Encoded resources must
//! be equal where they say the same, because their hash is their version. So what is written with a map of more than one
//! entry is written with the types here, in which a map is what it is on the wire: a list of entries.

use crate::istio::named;
use crate::pb::{core, google, rbac};
use prost::bytes::{Buf, BufMut};
use prost::{Message, Name, encoding};

/// Packs a message.
pub(crate) fn any<M: Message + Name>(message: &M) -> google::Any {
    google::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Packs an empty message of a type.
pub(crate) fn empty_any(type_name: &str) -> google::Any {
    google::Any { type_url: format!("type.googleapis.com/{type_name}"), value: Vec::new() }
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrderedStruct {
    #[prost(message, repeated, tag = "1")]
    pub(crate) fields: Vec<StructEntry>,
}

/// An entry of `google.protobuf.Struct.fields`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StructEntry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<OrderedValue>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrderedValue {
    #[prost(oneof = "OrderedKind", tags = "1, 2, 3, 4, 5, 6")]
    pub(crate) kind: Option<OrderedKind>,
}

/// The kinds of `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum OrderedKind {
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Struct(OrderedStruct),
    #[prost(message, tag = "6")]
    List(OrderedList),
}

impl OrderedKind {
    pub(crate) fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(OrderedList { values: items.into_iter().map(|kind| OrderedValue { kind: Some(kind) }).collect() })
    }
}

/// `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrderedList {
    #[prost(message, repeated, tag = "1")]
    pub(crate) values: Vec<OrderedValue>,
}

impl OrderedStruct {
    pub(crate) fn set(&mut self, key: &str, kind: OrderedKind) {
        self.fields.push(StructEntry { key: key.to_owned(), value: Some(OrderedValue { kind: Some(kind) }) });
    }

    pub(crate) fn with(mut self, key: &str, kind: OrderedKind) -> Self {
        self.set(key, kind);
        self
    }

    pub(crate) fn set_str(&mut self, key: &str, text: &str) {
        self.set(key, OrderedKind::String(text.to_owned()));
    }
}

/// `udpa.type.v1.TypedStruct`.
#[derive(Clone, PartialEq, Message)]
struct OrderedTypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, optional, tag = "2")]
    value: Option<OrderedStruct>,
}
named!(OrderedTypedStruct, "udpa.type.v1", "TypedStruct");

/// Packs the fields of a message whose type the reader may not know; one that does finds it by its type URL.
pub(crate) fn typed_struct(type_url: String, fields: OrderedStruct) -> google::Any {
    any(&OrderedTypedStruct { type_url, value: Some(fields) })
}

/// `envoy.config.core.v3.Metadata`, of which only `filter_metadata` is used.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrderedMetadata {
    #[prost(message, repeated, tag = "1")]
    pub(crate) filter_metadata: Vec<MetadataEntry>,
}

/// An entry of `Metadata.filter_metadata`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetadataEntry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<OrderedStruct>,
}

impl OrderedMetadata {
    pub(crate) fn set(&mut self, namespace: &str, value: OrderedStruct) {
        self.filter_metadata.push(MetadataEntry { key: namespace.to_owned(), value: Some(value) });
    }
}

/// `envoy.config.rbac.v3.RBAC`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrderedRbac {
    #[prost(int32, tag = "1")]
    pub(crate) action: i32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) policies: Vec<PolicyEntry>,
}

/// An entry of `RBAC.policies`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PolicyEntry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<rbac::Policy>,
}

/// `envoy.extensions.filters.http.rbac.v3.RBAC`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HttpRbac {
    #[prost(message, optional, tag = "1")]
    pub(crate) rules: Option<OrderedRbac>,
    #[prost(string, tag = "6")]
    pub(crate) rules_stat_prefix: String,
}
named!(HttpRbac, "envoy.extensions.filters.http.rbac.v3", "RBAC");

/// `envoy.extensions.filters.network.rbac.v3.RBAC`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NetworkRbac {
    #[prost(message, optional, tag = "1")]
    pub(crate) rules: Option<OrderedRbac>,
    #[prost(string, tag = "3")]
    pub(crate) stat_prefix: String,
}
named!(NetworkRbac, "envoy.extensions.filters.network.rbac.v3", "RBAC");

/// `envoy.extensions.access_loggers.file.v3.FileAccessLog`, with the one form of format that is written.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrderedFileLog {
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    #[prost(message, optional, tag = "5")]
    pub(crate) log_format: Option<OrderedFormat>,
}
named!(OrderedFileLog, "envoy.extensions.access_loggers.file.v3", "FileAccessLog");

/// `envoy.config.core.v3.SubstitutionFormatString`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrderedFormat {
    #[prost(message, optional, tag = "2")]
    pub(crate) json_format: Option<OrderedStruct>,
    #[prost(message, optional, tag = "5")]
    pub(crate) text_format_source: Option<core::DataSource>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) formatters: Vec<core::TypedExtensionConfig>,
}

/// A message of another type that shares some field numbers: what `M` does not have is skipped.
pub(crate) fn view<M: Message + Default>(bytes: &[u8]) -> Result<M, prost::DecodeError> {
    M::decode(bytes)
}

/// A message, and entries of one of its repeated fields that its own type cannot hold in order (a map's), or cannot hold at all
/// (messages extended in turn). Written only: what is read goes into the base.
#[derive(Debug)]
pub(crate) struct Extended<B, E> {
    /// The message, its field `tag` empty.
    pub(crate) base: B,
    /// The field's number.
    pub(crate) tag: u32,
    /// Its entries, in order.
    pub(crate) entries: Vec<E>,
}

impl<B: Message, E: Message> Message for Extended<B, E> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.base.encode_raw(buf);
        encoding::message::encode_repeated(self.tag, &self.entries, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: encoding::WireType,
        buf: &mut impl Buf,
        ctx: encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        self.base.merge_field(tag, wire_type, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.base.encoded_len() + encoding::message::encoded_len_repeated(self.tag, &self.entries)
    }

    fn clear(&mut self) {
        self.base.clear();
        self.entries.clear();
    }
}

/// An entry of `Route.typed_per_filter_config`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FilterEntry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<google::Any>,
}
