//! `--help` word for word. After a change: `UPDATE_EXPECT=1 cargo test -p lingot-app`, and read the
//! difference.

use super::program::Place;
use expect_test::expect_file;

const COMMANDS: [&str; 13] = [
    "train", "data", "model", "generate", "eval", "export", "import", "merge", "devices", "bench", "align",
    "plan", "ledger",
];

#[test]
fn every_command_has_a_help_with_examples() {
    let place = Place::new();
    expect_file!["../help/lingot.txt"].assert_eq(&place.succeed(&["--help"]));
    for command in COMMANDS {
        let help = place.succeed(&[command, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("Usage: lingot {command}")), "{help}");
        expect_file![format!("../help/{command}.txt")].assert_eq(&help);
    }
}

#[test]
fn a_misspelt_command_or_option_is_named_with_the_nearest_one() {
    let place = Place::new();
    for (args, near) in [(["trian", "run.toml"], "'train'"), (["train", "--sett"], "'--set'")] {
        let ended = place.run(&args);
        assert_eq!(ended.code, 2);
        assert!(ended.err.starts_with("error: ") && ended.err.contains(near), "{}", ended.err);
    }
}
