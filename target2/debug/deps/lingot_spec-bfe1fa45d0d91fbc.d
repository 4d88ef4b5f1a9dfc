/work/main/target2/debug/deps/lingot_spec-bfe1fa45d0d91fbc.d: crates/spec/src/lib.rs crates/spec/src/cost.rs crates/spec/src/event.rs crates/spec/src/event/load.rs crates/spec/src/manifest.rs crates/spec/src/model.rs crates/spec/src/presets.rs crates/spec/src/problem.rs crates/spec/src/python_json.rs crates/spec/src/run.rs crates/spec/src/run/sync.rs crates/spec/src/special_tokens.rs crates/spec/src/step/mod.rs crates/spec/src/step/layer.rs crates/spec/src/step/tape.rs crates/spec/src/tensors.rs

/work/main/target2/debug/deps/liblingot_spec-bfe1fa45d0d91fbc.rmeta: crates/spec/src/lib.rs crates/spec/src/cost.rs crates/spec/src/event.rs crates/spec/src/event/load.rs crates/spec/src/manifest.rs crates/spec/src/model.rs crates/spec/src/presets.rs crates/spec/src/problem.rs crates/spec/src/python_json.rs crates/spec/src/run.rs crates/spec/src/run/sync.rs crates/spec/src/special_tokens.rs crates/spec/src/step/mod.rs crates/spec/src/step/layer.rs crates/spec/src/step/tape.rs crates/spec/src/tensors.rs

crates/spec/src/lib.rs:
crates/spec/src/cost.rs:
crates/spec/src/event.rs:
crates/spec/src/event/load.rs:
crates/spec/src/manifest.rs:
crates/spec/src/model.rs:
crates/spec/src/presets.rs:
crates/spec/src/problem.rs:
crates/spec/src/python_json.rs:
crates/spec/src/run.rs:
crates/spec/src/run/sync.rs:
crates/spec/src/special_tokens.rs:
crates/spec/src/step/mod.rs:
crates/spec/src/step/layer.rs:
crates/spec/src/step/tape.rs:
crates/spec/src/tensors.rs:
