//! The page of published runs is what the code says.

use std::path::Path;

#[test]
fn the_page_of_published_runs_is_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/forecasts.md");
    let page = lingot_plan::published::page();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(kept == page, "run this test with UPDATE_EXPECT=1 and read the difference");
    assert!(page.lines().filter(|line| line.starts_with("| 1")).count() >= 10);
}
