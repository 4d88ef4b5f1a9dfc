//! Parquet files as documents: one column of text, read without the others.

use crate::document::{Notes, Piece, Pieces, cut};
use crate::packing::{Limit, too_much};
use crate::pages;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Rows that are decoded at once.
const ROWS: usize = 256;

/// Each row of column `field` is a document; null and blank rows give none. `path` is the name the user knows
/// `file` by.
pub(crate) fn pieces(file: &Path, path: &Path, field: &str) -> Result<Pieces> {
    let open = || File::open(file).map_err(|e| Problem::io("open", path, &e));
    let (file, pages) = (open()?, open()?);
    let bytes = file.metadata().map_err(|e| Problem::io("read", path, &e))?.len();
    let (reader, column) = guarded(path, || {
        let reader = SerializedFileReader::new(file).map_err(|e| corrupt(path, &e))?;
        let column = column_of(&reader, path, field)?;
        Ok((reader, column))
    })?;
    let mut rows = Rows {
        reader,
        pages,
        path: path.into(),
        column,
        group: 0,
        current: None,
        rows: VecDeque::new(),
        ready: VecDeque::new(),
        limit: Limit::new(path, Rc::new(Cell::new(bytes))),
    };
    let (mut failed, path) = (false, path.to_owned());
    let next = move || {
        if failed {
            return None;
        }
        let next = guarded(&path, || rows.next()).transpose();
        failed = matches!(next, Some(Err(_)));
        next
    };
    Ok(Pieces::new(Notes::default(), std::iter::from_fn(next)))
}

/// Runs `work` of the Parquet library, which panics on some corrupt files. The reader is not used after an
/// error.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    done.unwrap_or_else(|_| Err(corrupt(path, &ParquetError::General("it contradicts itself".into()))))
}

fn column_of(reader: &SerializedFileReader<File>, path: &Path, field: &str) -> Result<usize> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
    let Some(index) = names.iter().position(|name| name == field) else {
        return Err(Problem::new(
            format!("{} has no column `{field}`; its columns are: {}", path.display(), names.join(", ")),
            "name the column that holds the text with `field` of the corpus, or `--field`",
        )
        .of(ProblemKind::Input));
    };
    let column = schema.column(index);
    if column.physical_type() != parquet::basic::Type::BYTE_ARRAY || column.max_rep_level() > 0 {
        return Err(Problem::new(
            format!("column `{field}` of {} is {}, not text", path.display(), column.physical_type()),
            "name the column that holds the text with `field` of the corpus, or `--field`",
        )
        .of(ProblemKind::Input));
    }
    Ok(index)
}

/// The rows of one column, group by group.
struct Rows {
    reader: SerializedFileReader<File>,
    /// The same file, for sizing up pages.
    pages: File,
    path: PathBuf,
    column: usize,
    /// The next row group.
    group: usize,
    current: Option<ColumnReaderImpl<ByteArrayType>>,
    /// Decoded rows, which share the memory of their pages.
    rows: VecDeque<ByteArray>,
    /// The pieces of the last row.
    ready: VecDeque<Piece>,
    limit: Limit,
}

impl Rows {
    fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if let Some(row) = self.rows.pop_front() {
                let text = row.as_utf8().map_err(|e| corrupt(&self.path, &e))?;
                self.count(text.len())?;
                self.ready.extend(cut(text.to_owned()));
                continue;
            }
            if self.current.is_none() && !self.open_group()? {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    fn open_group(&mut self) -> Result<bool> {
        if self.group == self.reader.num_row_groups() {
            return Ok(false);
        }
        let group = self.reader.get_row_group(self.group).map_err(|e| corrupt(&self.path, &e))?;
        let checked = pages::check(&self.pages, group.metadata().column(self.column));
        let checked = checked.map_err(|e| corrupt(&self.path, &ParquetError::from(e)))?;
        checked.map_err(|clause| too_much(&self.path, &clause))?;
        self.group += 1;
        if let ColumnReader::ByteArrayColumnReader(column) =
            group.get_column_reader(self.column).map_err(|e| corrupt(&self.path, &e))?
        {
            self.current = Some(column);
        }
        Ok(true)
    }

    fn fill(&mut self) -> Result<()> {
        let Some(column) = &mut self.current else { return Ok(()) };
        let (mut values, mut levels): (Vec<ByteArray>, Vec<i16>) = (Vec::new(), Vec::new());
        let (rows, _, _) = column
            .read_records(ROWS, Some(&mut levels), None, &mut values)
            .map_err(|e| corrupt(&self.path, &e))?;
        if rows == 0 {
            self.current = None;
        }
        // A row without text takes no bytes, but time.
        self.count(rows)?;
        self.rows.extend(values);
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<()> {
        self.limit.count(bytes).map_err(|clause| too_much(&self.path, &clause))
    }
}

fn corrupt(path: &Path, error: &ParquetError) -> Problem {
    Problem::new(
        format!("{} cannot be read as Parquet: {error}", path.display()),
        "fetch or write the file again; Lingot reads uncompressed, snappy, gzip and zstd columns",
    )
    .of(ProblemKind::Damaged)
}
