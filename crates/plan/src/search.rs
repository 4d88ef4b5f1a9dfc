//! The best fleet for a request, the front, and why the others lost.

use crate::answer::Search;
use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::request::Request;

/// Answers a request. Errors are mistakes in the request; a request that no fleet meets is an answer, `infeasible`.
pub fn search(request: &Request, _catalogue: &Catalogue) -> Result<Search> {
    request.check()?;
    Err(Error::new("the search is not built yet", "read the catalogue meanwhile"))
}
