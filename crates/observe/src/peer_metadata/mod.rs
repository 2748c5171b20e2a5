//! Istio's metadata exchange: how two proxies tell each other which workload they stand before.
//!
//! Over HTTP it is a pair of headers, over TCP (ALPN `istio-peer-exchange`) a frame that each side sends first. Both carry a
//! `google.protobuf.Struct`. What comes in is from a peer that may lie: decoding is bounded and total, and the result may
//! name metrics, never authorize.

mod cache;

pub use cache::PeerCache;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::Message;
use prost_types::{Any, Struct, Value, value::Kind};
use std::collections::BTreeMap;

/// The request and response header with the metadata.
pub const METADATA_HEADER: &str = "x-envoy-peer-metadata";
/// The request and response header with the peer's node id.
pub const METADATA_ID_HEADER: &str = "x-envoy-peer-metadata-id";
/// The ALPN name by which two proxies agree on exchanging frames.
pub const ALPN: &str = "istio-peer-exchange";

/// The longest header value that is decoded, in bytes.
pub const MAX_HEADER: usize = 16 * 1024;
/// The longest frame content that is decoded, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;

const MAGIC: u32 = 0x3D23_0467;
const FRAME_HEAD: usize = 8;
const STRUCT_TYPE: &str = "type.googleapis.com/google.protobuf.Struct";
/// How many labels of a peer are kept.
const MAX_LABELS: usize = 64;

/// Envoy has sent both padded and unpadded base64.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// What a proxy says about its workload. An unknown field is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerMetadata {
    /// Node id, e.g. `sidecar~10.0.0.1~web-0.shop~shop.svc.cluster.local`.
    pub id: String,
    /// `NAME`: the pod.
    pub name: String,
    /// `NAMESPACE`.
    pub namespace: String,
    /// `OWNER`, e.g. `kubernetes://apis/apps/v1/namespaces/shop/deployments/web-v1`.
    pub owner: String,
    /// `WORKLOAD_NAME`.
    pub workload_name: String,
    /// `CLUSTER_ID`.
    pub cluster_id: String,
    /// `LABELS`: those that metrics need, see [`PeerMetadata::EXCHANGED_LABELS`].
    pub labels: BTreeMap<String, String>,
}

/// Why bytes are not peer metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerMetadataError {
    /// Larger than what is accepted.
    #[error("peer metadata of {0} bytes is too large")]
    TooLarge(usize),
    /// The header is not base64.
    #[error("the peer metadata header is not base64")]
    Base64,
    /// Not a `google.protobuf.Struct`, or not an `Any` of one.
    #[error("peer metadata is not a google.protobuf.Struct")]
    Struct,
    /// A frame does not begin with the magic number.
    #[error("a peer metadata frame begins with {0:#010x} instead of {MAGIC:#010x}")]
    Magic(u32),
}

impl PeerMetadata {
    /// The labels that Istio exchanges.
    pub const EXCHANGED_LABELS: [&str; 7] = [
        "app",
        "version",
        "app.kubernetes.io/name",
        "app.kubernetes.io/version",
        "service.istio.io/canonical-name",
        "service.istio.io/canonical-revision",
        "istio-locality",
    ];

    /// The canonical service: label `service.istio.io/canonical-name`, `app.kubernetes.io/name`, `app`, or the workload.
    pub fn canonical_service(&self) -> &str {
        let names = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
        names.iter().find_map(|name| self.labels.get(*name)).unwrap_or(&self.workload_name)
    }

    /// The canonical revision: label `service.istio.io/canonical-revision`, `app.kubernetes.io/version`, `version`, or
    /// `latest`.
    pub fn canonical_revision(&self) -> &str {
        let names = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
        names.iter().find_map(|name| self.labels.get(*name)).map_or("latest", String::as_str)
    }

    /// The value of [`METADATA_HEADER`]. Equal metadata gives equal text, so a proxy makes its own once.
    pub fn to_header(&self) -> String {
        BASE64.encode(self.to_struct().encode_to_vec())
    }

    /// Reads a value of [`METADATA_HEADER`]; the id comes in a header of its own.
    pub fn from_header(value: &[u8]) -> Result<Self, PeerMetadataError> {
        if value.len() > MAX_HEADER {
            return Err(PeerMetadataError::TooLarge(value.len()));
        }
        let bytes = BASE64.decode(value).map_err(|_| PeerMetadataError::Base64)?;
        let message = Struct::decode(&*bytes).map_err(|_| PeerMetadataError::Struct)?;
        Ok(Self::from_struct(&message))
    }

    /// The frame that each side of an `istio-peer-exchange` connection sends first: magic number, length, and an `Any` of
    /// a `Struct` that holds metadata and id under the header's names.
    pub fn to_frame(&self) -> Vec<u8> {
        let mut outer = Struct::default();
        outer.fields.insert(METADATA_HEADER.into(), Value { kind: Some(Kind::StructValue(self.to_struct())) });
        if !self.id.is_empty() {
            outer.fields.insert(METADATA_ID_HEADER.into(), text(&self.id));
        }
        let any = Any { type_url: STRUCT_TYPE.into(), value: outer.encode_to_vec() };
        let content = any.encode_to_vec();
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let mut frame = Vec::with_capacity(FRAME_HEAD + content.len());
        frame.extend_from_slice(&MAGIC.to_be_bytes());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&content);
        frame
    }

    /// Reads a frame from the front of what has been received. None means that more bytes are needed; else the metadata
    /// and how many bytes the frame took.
    pub fn from_frame(received: &[u8]) -> Result<Option<(Self, usize)>, PeerMetadataError> {
        let Some((magic, rest)) = received.split_first_chunk::<4>() else {
            // The first wrong byte is enough to know that no frame comes.
            return if MAGIC.to_be_bytes().starts_with(received) { Ok(None) } else { Err(PeerMetadataError::Magic(0)) };
        };
        let magic = u32::from_be_bytes(*magic);
        if magic != MAGIC {
            return Err(PeerMetadataError::Magic(magic));
        }
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(PeerMetadataError::TooLarge(length));
        }
        let Some(content) = rest.get(..length) else { return Ok(None) };
        let any = Any::decode(content).map_err(|_| PeerMetadataError::Struct)?;
        if any.type_url != STRUCT_TYPE {
            return Err(PeerMetadataError::Struct);
        }
        let outer = Struct::decode(&*any.value).map_err(|_| PeerMetadataError::Struct)?;
        let mut metadata = match outer.fields.get(METADATA_HEADER).and_then(|value| value.kind.as_ref()) {
            Some(Kind::StructValue(inner)) => Self::from_struct(inner),
            _ => return Err(PeerMetadataError::Struct),
        };
        metadata.id = string(&outer, METADATA_ID_HEADER);
        Ok(Some((metadata, FRAME_HEAD + length)))
    }

    /// The keys are held in order, which makes the encoding deterministic.
    fn to_struct(&self) -> Struct {
        let texts = [
            ("NAME", &self.name),
            ("NAMESPACE", &self.namespace),
            ("OWNER", &self.owner),
            ("WORKLOAD_NAME", &self.workload_name),
            ("CLUSTER_ID", &self.cluster_id),
        ];
        let known = texts.into_iter().filter(|(_, value)| !value.is_empty());
        let mut fields: BTreeMap<String, Value> = known.map(|(key, value)| (key.to_owned(), text(value))).collect();
        if !self.labels.is_empty() {
            let labels = self.labels.iter().map(|(key, value)| (key.clone(), text(value))).collect();
            fields.insert("LABELS".into(), Value { kind: Some(Kind::StructValue(Struct { fields: labels })) });
        }
        Struct { fields }
    }

    fn from_struct(message: &Struct) -> Self {
        let labels = match message.fields.get("LABELS").and_then(|value| value.kind.as_ref()) {
            Some(Kind::StructValue(labels)) => labels
                .fields
                .iter()
                .filter_map(|(key, value)| match &value.kind {
                    Some(Kind::StringValue(text)) => Some((key.clone(), text.clone())),
                    _ => None,
                })
                .take(MAX_LABELS)
                .collect(),
            _ => BTreeMap::new(),
        };
        Self {
            id: String::new(),
            name: string(message, "NAME"),
            namespace: string(message, "NAMESPACE"),
            owner: string(message, "OWNER"),
            workload_name: string(message, "WORKLOAD_NAME"),
            cluster_id: string(message, "CLUSTER_ID"),
            labels,
        }
    }
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

fn string(message: &Struct, key: &str) -> String {
    match message.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}
