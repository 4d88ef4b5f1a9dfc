//! The planner from outside: its catalogue and its requests.

#![allow(clippy::unwrap_used)]

mod advice;
mod chips;
mod pairs;
mod paper;
mod parsers;
mod published;
mod search;
mod whole;

use lingot_plan::{Catalogue, Request};

#[test]
fn the_built_in_catalogue_and_the_papers_request_are_read() {
    let catalogue = Catalogue::built_in().unwrap();
    let request = Request::parse(include_str!("../../../../plans/ling-paper.toml")).unwrap();
    assert!(request.chips.iter().all(|chip| catalogue.chip(&chip.name).unwrap().price.is_some()));
}

#[test]
fn an_unknown_chip_is_refused_with_the_nearest_name() {
    let error = Catalogue::built_in().unwrap().chip("H1000").unwrap_err();
    assert!(error.hint.contains("H100"), "{error}");
}
