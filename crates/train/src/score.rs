//! How well a model predicts text that is given: the likelihood of documents, and of the choices of a
//! question.

use lingot_model::{Inputs, Model, Rows};
use lingot_spec::problem::{Problem, ProblemKind, Result};

/// The log-likelihood of a text, summed over documents.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TextScore {
    /// Negative log-likelihood, in nats.
    pub nats: f64,
    /// Tokens that were predicted: all but each document's first.
    pub tokens: u64,
    /// All tokens of the documents.
    pub all_tokens: u64,
    /// UTF-8 bytes of the text.
    pub bytes: u64,
    /// Documents that were added.
    pub documents: u64,
}

impl TextScore {
    /// Mean cross-entropy of a token, in nats.
    pub fn loss(&self) -> f64 {
        self.nats / self.tokens as f64
    }

    /// The exponential of the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }

    /// The mean loss of a token, in bits, times the tokens per byte of the text. Nothing predicts the first
    /// token of a document, so it counts with the mean of the others, as it does in training.
    pub fn bits_per_byte(&self) -> f64 {
        self.loss() / std::f64::consts::LN_2 * self.all_tokens as f64 / self.bytes as f64
    }
}

/// A question with its possible answers, one of which is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The text before the choices.
    pub question: String,
    /// The possible answers.
    pub choices: Vec<String>,
    /// Index of the right choice, from 0.
    pub answer: usize,
}

/// How many questions were answered right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChoiceScore {
    /// Questions that were added.
    pub questions: u64,
    /// Questions whose likeliest choice is right.
    pub right: u64,
    /// Questions whose likeliest choice per byte is right: long choices are not at a disadvantage.
    pub right_normalised: u64,
}

/// Returns a share with the standard error of its estimate, `sqrt(p (1 - p) / (n - 1))`.
pub fn share(right: u64, of: u64) -> (f64, f64) {
    let p = right as f64 / of as f64;
    let error = if of > 1 { (p * (1.0 - p) / (of - 1) as f64).sqrt() } else { 0.0 };
    (p, error)
}

/// Tokens that are scored in one pass, at most, where a single window or question has no more.
const PASS_TOKENS: usize = 4096;

/// Scores documents, many windows in one pass.
pub struct TextScorer<'a> {
    model: &'a Model,
    /// The most tokens that the model sees at once.
    sequence: usize,
    /// Windows that wait for a pass, with the token that each begins after.
    windows: Vec<Vec<u32>>,
    waiting: usize,
    score: TextScore,
}

impl<'a> TextScorer<'a> {
    /// Begins to score.
    pub fn new(model: &'a Model, sequence: usize) -> TextScorer<'a> {
        TextScorer {
            model,
            sequence: sequence.max(1),
            windows: Vec::new(),
            waiting: 0,
            score: TextScore::default(),
        }
    }

    /// Adds one document: `tokens` with the end of the document last. It is cut into windows of `sequence`
    /// tokens, each of which sees nothing before its own first token, as in training.
    pub fn add(&mut self, tokens: &[u32], bytes: usize) -> Result<()> {
        check_tokens(self.model, tokens)?;
        self.score.documents += 1;
        self.score.bytes += bytes as u64;
        self.score.all_tokens += tokens.len() as u64;
        let mut first = 0;
        while first + 1 < tokens.len() {
            let last = first.saturating_add(self.sequence).min(tokens.len() - 1);
            if self.waiting > 0 && self.waiting + last - first > PASS_TOKENS {
                self.pass()?;
            }
            self.windows.push(tokens[first..=last].to_vec());
            self.waiting += last - first;
            first = last;
        }
        Ok(())
    }

    /// Scores the windows that wait.
    fn pass(&mut self) -> Result<()> {
        let windows = std::mem::take(&mut self.windows);
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let losses = evaluate(self.model, &windows)?;
        self.score.nats += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        self.score.tokens += losses.len() as u64;
        self.waiting = 0;
        Ok(())
    }

    /// Scores what is left, and returns the score of all documents.
    pub fn finish(mut self) -> Result<TextScore> {
        if self.waiting > 0 {
            self.pass()?;
        }
        Ok(self.score)
    }
}

/// Scores questions, the choices of many in one pass.
pub struct ChoiceScorer<'a> {
    model: &'a Model,
    /// The tokenizer's.
    encode: &'a dyn Fn(&str) -> Vec<u32>,
    waiting: Vec<Encoded>,
    tokens: usize,
    score: ChoiceScore,
}

/// A question in tokens.
struct Encoded {
    /// Tokens of the question alone.
    before: usize,
    /// The question with each of its choices.
    rows: Vec<Vec<u32>>,
    /// Bytes of each choice.
    bytes: Vec<usize>,
    answer: usize,
}

impl<'a> ChoiceScorer<'a> {
    /// Begins to score.
    pub fn new(model: &'a Model, encode: &'a dyn Fn(&str) -> Vec<u32>) -> ChoiceScorer<'a> {
        ChoiceScorer { model, encode, waiting: Vec::new(), tokens: 0, score: ChoiceScore::default() }
    }

    /// Adds one question.
    pub fn add(&mut self, question: &Question) -> Result<()> {
        let encoded = encoded(self.model, question, self.encode)?;
        let tokens: usize = encoded.rows.iter().map(|row| row.len() - 1).sum();
        if self.tokens > 0 && self.tokens + tokens > PASS_TOKENS {
            self.pass()?;
        }
        self.tokens += tokens;
        self.waiting.push(encoded);
        Ok(())
    }

    /// Scores the questions that wait.
    fn pass(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.tokens = 0;
        for (question, scores) in waiting.iter().zip(score_choices(self.model, &waiting)?) {
            let best = |score: &dyn Fn(usize) -> f64| {
                (0..scores.len()).reduce(|best, next| if score(next) > score(best) { next } else { best })
            };
            let bytes = |index: usize| question.bytes[index].max(1) as f64;
            self.score.questions += 1;
            self.score.right += u64::from(best(&|index| scores[index]) == Some(question.answer));
            self.score.right_normalised +=
                u64::from(best(&|index| scores[index] / bytes(index)) == Some(question.answer));
        }
        Ok(())
    }

    /// Scores what is left, and returns the score of all questions.
    pub fn finish(mut self) -> Result<ChoiceScore> {
        if self.tokens > 0 {
            self.pass()?;
        }
        Ok(self.score)
    }
}

fn encoded(model: &Model, question: &Question, encode: &dyn Fn(&str) -> Vec<u32>) -> Result<Encoded> {
    let context = question.question.trim_end();
    let before = encode(context).len();
    let mut rows = Vec::new();
    for choice in &question.choices {
        // The blank belongs to the word after it: tokenizers that read bytes never end a word with one.
        let tokens = encode(&format!("{context} {}", choice.trim_start()));
        check_tokens(model, &tokens)?;
        rows.push(tokens);
    }
    if before == 0 || rows.iter().any(|tokens| tokens.len() <= before) {
        return Err(Problem::new(
            format!("the question `{context}` or one of its choices is empty"),
            "a question needs text, and each choice text that can be scored after it",
        )
        .of(ProblemKind::Input));
    }
    let bytes = question.choices.iter().map(String::len).collect();
    Ok(Encoded { before, rows, bytes, answer: question.answer })
}

/// The log-likelihood of each choice after its question, by question and choice.
fn score_choices(model: &Model, questions: &[Encoded]) -> Result<Vec<Vec<f64>>> {
    let rows: Vec<&[u32]> = questions.iter().flat_map(|question| &question.rows).map(Vec::as_slice).collect();
    let losses = evaluate(model, &rows)?;
    let mut first = 0;
    let mut score = |before: usize, row: &Vec<u32>| {
        let choice = &losses[first + before - 1..first + row.len() - 1];
        first += row.len() - 1;
        -choice.iter().map(|&loss| f64::from(loss)).sum::<f64>()
    };
    let scores = questions
        .iter()
        .map(|Encoded { before, rows, .. }| rows.iter().map(|row| score(*before, row)).collect());
    Ok(scores.collect())
}

/// The loss of every token but each document's first, as documents of one sequence that do not see each
/// other.
fn evaluate(model: &Model, documents: &[&[u32]]) -> Result<Vec<f32>> {
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    let (mut starts, mut positions) = (Vec::new(), Vec::new());
    for document in documents {
        let start = tokens.len() as i32;
        for (position, pair) in document.windows(2).enumerate() {
            tokens.push(pair[0] as i32);
            targets.push(pair[1] as i32);
            starts.push(start);
            positions.push(position as i32);
        }
    }
    let rows = Rows {
        tokens_t: &tokens,
        targets_t: &targets,
        starts_t: &starts,
        positions_t: &positions,
        sequence: tokens.len(),
    };
    Ok(model.evaluate(&Inputs::new(&model.device, rows, false)?)?)
}

fn check_tokens(model: &Model, tokens: &[u32]) -> Result<()> {
    let rows = model.spec.vocabulary;
    match tokens.iter().find(|&&token| token >= rows) {
        None => Ok(()),
        Some(token) => Err(Problem::new(
            format!("the text has token {token}, the model's vocabulary is {rows}"),
            "give the tokenizer that the model was trained with",
        )
        .of(ProblemKind::Input)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lingot_device::reference::Reference;
    use lingot_device::{Device, Kind};
    use lingot_spec::ModelSpec;
    use lingot_spec::presets::preset;

    fn tiny() -> Model {
        let spec = ModelSpec {
            vocabulary: 300,
            width: 16,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_width: 8,
            rotary_width: 4,
            dense_width: 24,
            experts: 4,
            expert_width: 8,
            initial_deviation: 0.5,
            ..preset("toy").unwrap()
        };
        Model::new(&spec, &Device::new(Reference::new()), Kind::F32, 5).unwrap()
    }

    /// One token per byte.
    fn encode(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    #[test]
    fn a_document_is_scored_alike_whatever_its_neighbours() {
        let model = tiny();
        let (a, b) = (encode("first document"), encode("and the second"));
        let together = evaluate(&model, &[&a, &b]).unwrap();
        let apart = [evaluate(&model, &[&a]).unwrap(), evaluate(&model, &[&b]).unwrap()].concat();
        assert_eq!(together, apart);
    }

    #[test]
    fn every_token_but_the_first_is_predicted_once_whatever_the_window() {
        let model = tiny();
        for sequence in [3, 4, 13, 100] {
            let mut scorer = TextScorer::new(&model, sequence);
            scorer.add(&encode("fourteen bytes"), 14).unwrap();
            let score = scorer.finish().unwrap();
            assert_eq!((score.tokens, score.bytes, score.documents), (13, 14, 1));
            assert!(score.loss() > 0.0);
        }
    }

    #[test]
    fn a_choice_is_worth_the_likelihood_of_its_own_tokens() {
        let model = tiny();
        let choices = vec!["no".to_owned(), "perhaps".to_owned()];
        let question = Question { question: "Is it?".into(), choices, answer: 0 };
        let rows = [super::encoded(&model, &question, &encode).unwrap()];
        let scores = score_choices(&model, &rows).unwrap().swap_remove(0);
        let losses = evaluate(&model, &[&encode("Is it? perhaps")]).unwrap();
        let expected: f64 = losses[5..].iter().map(|&loss| -f64::from(loss)).sum();
        assert!((scores[1] - expected).abs() < 1e-9, "{scores:?} {expected}");

        let likeliest = usize::from(scores[1] > scores[0]);
        let mut scorer = ChoiceScorer::new(&model, &encode);
        for answer in [0, 1] {
            scorer.add(&Question { answer, ..question.clone() }).unwrap();
        }
        let score = scorer.finish().unwrap();
        assert_eq!((score.questions, score.right, likeliest), (2, 1, 0));
    }

    /// Passes are cut by size alone: hundreds of windows and questions are scored as each alone.
    #[test]
    fn many_are_scored_as_each_alone() {
        let model = tiny();
        let text = |n: usize| "some text and more of it ".repeat(1 + n % 40);
        let score = |documents: std::ops::Range<usize>| {
            let mut scorer = TextScorer::new(&model, 100);
            documents.for_each(|n| scorer.add(&encode(&text(n)), text(n).len()).unwrap());
            scorer.finish().unwrap()
        };
        let together = score(0..30);
        let alone: Vec<TextScore> = (0..30).map(|n| score(n..n + 1)).collect();
        let nats: f64 = alone.iter().map(|score| score.nats).sum();
        assert_eq!(together.tokens, alone.iter().map(|score| score.tokens).sum::<u64>());
        assert!((together.nats - nats).abs() < 1e-9 * nats, "{together:?} {nats}");
        let question = |n: usize| Question {
            question: text(n),
            choices: vec!["no".into(), "perhaps so".into(), "yes".into()],
            answer: n % 3,
        };
        let questions: Vec<Question> = (0..20).map(question).collect();
        let score = |questions: &[Question]| {
            let mut scorer = ChoiceScorer::new(&model, &encode);
            questions.iter().for_each(|question| scorer.add(question).unwrap());
            scorer.finish().unwrap()
        };
        let alone: u64 = questions.chunks(1).map(|question| score(question).right).sum();
        assert_eq!((score(&questions).right, score(&questions).questions), (alone, 20));
    }

    #[test]
    fn a_token_that_the_model_does_not_have_is_an_error() {
        let error = TextScorer::new(&tiny(), 8).add(&[1, 300], 2).unwrap_err();
        assert_eq!(error.problem, "the text has token 300, the model's vocabulary is 300");
    }

    #[test]
    fn a_share_has_a_standard_error() {
        let (p, error) = share(5, 10);
        assert_eq!(p, 0.5);
        assert!((error - (0.25_f64 / 9.0).sqrt()).abs() < 1e-15);
        assert_eq!(share(1, 1), (1.0, 0.0));
    }
}
