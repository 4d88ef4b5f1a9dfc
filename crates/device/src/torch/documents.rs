//! The documents of a batch, found once from the tensor of starts.

use super::Torch;
use super::refusal::Refusal;
use super::value::Value;
use crate::tensor::Tensor;
use std::sync::{Arc, OnceLock};

/// Consecutive queries that see the keys from the same one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first query.
    pub(super) first: usize,
    pub(super) queries: usize,
    pub(super) first_key: usize,
}

/// The documents that queries belong to.
pub(super) struct Documents {
    /// Keys before the first query's own.
    pub(super) earlier: usize,
    pub(super) runs: Vec<Run>,
    /// Where documents begin and the last one ends, i32 on the device.
    bounds: OnceLock<Value>,
}

impl Documents {
    /// The runs of equal starts. Errors if a query does not see itself.
    pub(super) fn new(starts: &[i32], earlier: usize) -> Result<Documents, Refusal> {
        let mut runs: Vec<Run> = vec![];
        for (t, &start) in starts.iter().enumerate() {
            let own = earlier + t;
            let first_key = usize::try_from(start).ok().filter(|&start| start <= own);
            let first_key = first_key
                .ok_or_else(|| format!("the start of query {t} is {start}, but must be 0 to {own}"))?;
            match runs.last_mut() {
                Some(run) if run.first_key == first_key => run.queries += 1,
                _ => runs.push(Run { first: t, queries: 1, first_key }),
            }
        }
        Ok(Documents { earlier, runs, bounds: OnceLock::new() })
    }

    /// Whether every query's document lies whole among the queries, so that documents follow one another.
    pub(super) fn are_whole(&self) -> bool {
        self.runs.iter().all(|run| run.first_key == self.earlier + run.first && self.earlier == 0)
    }

    /// Tokens of the longest document.
    pub(super) fn longest(&self) -> usize {
        self.runs.iter().map(|run| run.queries).max().unwrap_or(0)
    }

    /// Where documents begin and the last one ends, i32 on the device; only of whole documents.
    pub(super) fn bounds(&self, torch: &Torch) -> Result<&Value, Refusal> {
        if let Some(bounds) = self.bounds.get() {
            return Ok(bounds);
        }
        let end = self.runs.last().map_or(0, |run| run.first + run.queries);
        let bounds: Vec<i32> = self.runs.iter().map(|run| run.first as i32).chain([end as i32]).collect();
        let bounds = torch.whole_numbers(&bounds)?;
        Ok(self.bounds.get_or_init(|| bounds))
    }
}

impl Torch {
    /// The documents that a tensor of starts tells of, for queries that are the last of `keys` keys.
    pub(super) fn documents(&self, starts_t: &Tensor, keys: usize) -> Result<Arc<Documents>, Refusal> {
        let earlier = keys - starts_t.len();
        if let Some(known) = self.state().known.documents(starts_t).filter(|known| known.earlier == earlier) {
            return Ok(known);
        }
        let documents = Arc::new(Documents::new(&self.integers(starts_t)?, earlier)?);
        self.state().known.insert_documents(starts_t, documents.clone());
        Ok(documents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_equal_starts_are_documents_if_they_follow_one_another() {
        let of = |starts: &[i32], earlier| Documents::new(starts, earlier).unwrap();
        let packed = of(&[0, 0, 2, 3, 3, 3], 0);
        let run = |first, queries, first_key| Run { first, queries, first_key };
        assert_eq!(packed.runs, [run(0, 2, 0), run(2, 1, 2), run(3, 3, 3)]);
        assert!(packed.are_whole() && packed.longest() == 3);
        assert!(!of(&[0, 0, 1, 1], 0).are_whole(), "the second document begins within the first");
        assert!(!of(&[4, 4], 4).are_whole(), "there are keys before");
        let refused = Documents::new(&[0, 2], 0).err().unwrap().to_string();
        assert_eq!(refused, "the start of query 1 is 2, but must be 0 to 1");
    }
}
