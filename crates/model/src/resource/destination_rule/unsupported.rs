//! Fields of a DestinationRule that Istio implements and this version does not: none.

use super::DestinationRule;
use crate::resource::FieldIssue;

impl DestinationRule {
    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}
