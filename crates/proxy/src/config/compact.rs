//! Resources that are kept as they came, and small: those of one type are nearly alike, and are kept as what is different.

use std::sync::Arc;

/// Below this many bytes nothing is gained.
const MIN_BYTES: usize = 64;

/// Makes resources of one type small, by what they have in common with one of them.
#[derive(Default)]
pub(crate) struct Compactor {
    sample: Arc<[u8]>,
}

/// A resource's bytes.
#[derive(Debug)]
pub(crate) struct Compact {
    /// Compressed with `sample` as the dictionary (LZ4 blocks); none if it is the sample itself.
    difference: Option<Box<[u8]>>,
    length: usize,
    sample: Arc<[u8]>,
}

impl Compactor {
    /// Keeps some bytes. What has little in common with the present sample is the next one, so that kinds of resources that come
    /// one after another are each compared with their like.
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> Compact {
        let difference = lz4_flex::block::compress_with_dict(bytes, &self.sample);
        if bytes.len() >= MIN_BYTES && difference.len() > bytes.len() / 2 {
            self.sample = bytes.into();
            return Compact { difference: None, length: bytes.len(), sample: self.sample.clone() };
        }
        Compact { difference: Some(difference.into()), length: bytes.len(), sample: self.sample.clone() }
    }
}

impl Compact {
    /// The bytes as they came.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let Some(difference) = &self.difference else { return self.sample.to_vec() };
        // It cannot fail, because nothing changes what was compressed; bytes that are not there are no resource.
        lz4_flex::block::decompress_with_dict(difference, self.length, &self.sample).unwrap_or_default()
    }

    /// Whether it was made of these bytes.
    pub(crate) fn is(&self, bytes: &[u8]) -> bool {
        self.length == bytes.len() && self.bytes() == bytes
    }

    /// How many bytes it takes, without the sample that it shares with others.
    #[cfg(test)]
    fn size(&self) -> usize {
        self.difference.as_ref().map_or(0, |difference| difference.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resource(number: usize) -> Vec<u8> {
        let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext spiffe://cluster.local/ns";
        format!("outbound|80||service-{number}.many.example {tls} {number} outbound_.80_._.service-{number}.many").into_bytes()
    }

    #[test]
    fn what_is_alike_is_small() {
        let mut compactor = Compactor::default();
        let _other = compactor.keep(&(0..=255).collect::<Vec<u8>>());
        let first = compactor.keep(&resource(1));
        assert_eq!((first.size(), first.bytes()), (0, resource(1)), "it is the next sample");
        for number in 2..100 {
            let next = compactor.keep(&resource(number));
            assert_eq!(next.bytes(), resource(number));
            assert!(next.size() < resource(number).len() / 4, "{} of {} bytes", next.size(), resource(number).len());
            assert!(next.is(&resource(number)) && !next.is(&resource(number + 1)) && !next.is(b""));
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back_as_they_were(resources in proptest::collection::vec(proptest::collection::vec(0..4_u8, 0..300), 0..8)) {
            let mut compactor = Compactor::default();
            let kept: Vec<Compact> = resources.iter().map(|bytes| compactor.keep(bytes)).collect();
            for (kept, bytes) in kept.iter().zip(&resources) {
                prop_assert_eq!(&kept.bytes(), bytes);
            }
        }
    }
}
