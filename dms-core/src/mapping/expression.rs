//! Expressions of `add-column` rules, in the SQLite syntax that DMS uses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::schema::TableName;
use crate::value::Value;
use crate::{Error, Result};

/// An expression over one row: literals, `$COLUMN`, `||`, `+ - * / %`, comparisons, `AND`, `OR`,
/// `NOT`, `IS [NOT] NULL`, `CASE WHEN … THEN … ELSE … END`, the metadata `$AR_M_SOURCE_SCHEMA` and
/// `$AR_M_SOURCE_TABLE_NAME`, and the functions of [`Expression::FUNCTIONS`]. NULL behaves as in
/// SQL.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    text: String,
    root: Node,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Literal(Value),
    Column(String),
    Not(Box<Node>),
    Negate(Box<Node>),
    IsNull(Box<Node>, bool),
    Binary(&'static str, Box<Node>, Box<Node>),
    Case(Vec<(Node, Node)>, Option<Box<Node>>),
    Call(&'static str, Vec<Node>),
}

impl Expression {
    /// The functions, with SQLite's meaning.
    pub const FUNCTIONS: &'static [&'static str] = &[
        "abs", "coalesce", "hex", "ifnull", "instr", "length", "lower", "ltrim", "max", "min",
        "nullif", "replace", "round", "rtrim", "substr", "trim", "upper",
    ];

    /// The columns that the expression reads.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        let mut columns = Vec::new();
        self.root.columns(&mut columns);
        columns
    }

    pub(super) fn evaluate(
        &self,
        table: &TableName,
        column: &dyn Fn(&str) -> Result<Value>,
    ) -> Result<Value> {
        self.root.evaluate(table, column)
    }
}

impl Node {
    fn columns<'a>(&'a self, columns: &mut Vec<&'a str>) {
        match self {
            Self::Literal(_) => {}
            Self::Column(name) if name.starts_with("AR_M_") => {}
            Self::Column(name) => columns.push(name),
            Self::Not(node) | Self::Negate(node) | Self::IsNull(node, _) => node.columns(columns),
            Self::Binary(_, left, right) => {
                left.columns(columns);
                right.columns(columns);
            }
            Self::Case(arms, otherwise) => {
                for (when, then) in arms {
                    when.columns(columns);
                    then.columns(columns);
                }
                otherwise.iter().for_each(|node| node.columns(columns));
            }
            Self::Call(_, arguments) => arguments.iter().for_each(|node| node.columns(columns)),
        }
    }

    fn evaluate(&self, table: &TableName, column: &dyn Fn(&str) -> Result<Value>) -> Result<Value> {
        let eval = |node: &Node| node.evaluate(table, column);
        Ok(match self {
            Self::Literal(value) => value.clone(),
            Self::Column(name) => match name.as_str() {
                "AR_M_SOURCE_SCHEMA" => Value::Text(table.schema.clone()),
                "AR_M_SOURCE_TABLE_NAME" => Value::Text(table.name.clone()),
                name => column(name)?,
            },
            Self::Not(node) => match truth(&eval(node)?) {
                None => Value::Null,
                Some(truth) => Value::Int((!truth).into()),
            },
            Self::Negate(node) => arithmetic("-", &Value::Int(0), &eval(node)?),
            Self::IsNull(node, is) => Value::Int(((eval(node)? == Value::Null) == *is).into()),
            Self::Binary(operator, left, right) => binary(operator, &eval(left)?, &eval(right)?),
            Self::Case(arms, otherwise) => {
                for (when, then) in arms {
                    if truth(&eval(when)?) == Some(true) {
                        return eval(then);
                    }
                }
                otherwise.as_ref().map_or(Ok(Value::Null), |node| eval(node))?
            }
            Self::Call(name, arguments) => {
                call(name, &arguments.iter().map(eval).collect::<Result<Vec<_>>>()?)
            }
        })
    }
}

fn number(value: &Value) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "comparison of magnitudes, as SQLite's")]
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Int(number) => Some(*number as f64),
        Value::UInt(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Decimal(text) => text.parse().ok(),
        _ => None,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Text(text) | Value::Decimal(text) => text.clone(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        Value::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Null => None,
        value => Some(number(value).is_some_and(|number| number != 0.0)),
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::UInt(number) => i64::try_from(*number).ok(),
        Value::Bool(flag) => Some((*flag).into()),
        _ => None,
    }
}

/// SQLite's order of storage classes: numbers below text below bytes; text by its bytes.
fn compare(left: &Value, right: &Value) -> std::cmp::Ordering {
    match (integer(left), integer(right), number(left), number(right)) {
        (Some(left), Some(right), ..) => left.cmp(&right),
        (.., Some(left), Some(right)) => left.total_cmp(&right),
        (.., Some(_), None) => std::cmp::Ordering::Less,
        (.., None, Some(_)) => std::cmp::Ordering::Greater,
        _ => text(left).cmp(&text(right)),
    }
}

fn binary(operator: &str, left: &Value, right: &Value) -> Value {
    let flag = |flag: bool| Value::Int(flag.into());
    match operator {
        "AND" => {
            return match (truth(left), truth(right)) {
                (Some(false), _) | (_, Some(false)) => flag(false),
                (Some(true), Some(true)) => flag(true),
                _ => Value::Null,
            };
        }
        "OR" => {
            return match (truth(left), truth(right)) {
                (Some(true), _) | (_, Some(true)) => flag(true),
                (Some(false), Some(false)) => flag(false),
                _ => Value::Null,
            };
        }
        _ => {}
    }
    if *left == Value::Null || *right == Value::Null {
        return Value::Null;
    }
    match operator {
        "||" => Value::Text(text(left) + &text(right)),
        "=" | "==" => flag(compare(left, right).is_eq()),
        "<>" | "!=" => flag(compare(left, right).is_ne()),
        "<" => flag(compare(left, right).is_lt()),
        "<=" => flag(compare(left, right).is_le()),
        ">" => flag(compare(left, right).is_gt()),
        ">=" => flag(compare(left, right).is_ge()),
        operator => arithmetic(operator, left, right),
    }
}

fn arithmetic(operator: &str, left: &Value, right: &Value) -> Value {
    if *left == Value::Null || *right == Value::Null {
        return Value::Null;
    }
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        let exact = match operator {
            "+" => left.checked_add(right),
            "-" => left.checked_sub(right),
            "*" => left.checked_mul(right),
            _ if right == 0 => return Value::Null,
            "/" => left.checked_div(right),
            _ => left.checked_rem(right),
        };
        if let Some(exact) = exact {
            return Value::Int(exact);
        }
    }
    let (left, right) = (number(left).unwrap_or(0.0), number(right).unwrap_or(0.0));
    match operator {
        "+" => Value::Float(left + right),
        "-" => Value::Float(left - right),
        "*" => Value::Float(left * right),
        _ if right == 0.0 => Value::Null,
        "/" => Value::Float(left / right),
        _ => Value::Float(left % right),
    }
}

fn call(name: &str, arguments: &[Value]) -> Value {
    let null = &Value::Null;
    let first = arguments.first().unwrap_or(null);
    let second = arguments.get(1).unwrap_or(null);
    match name {
        "coalesce" | "ifnull" => {
            return arguments.iter().find(|value| *value != null).unwrap_or(null).clone();
        }
        "nullif" => {
            let equal = first != null && second != null && compare(first, second).is_eq();
            return if equal { Value::Null } else { first.clone() };
        }
        _ if arguments.contains(null) => return Value::Null,
        _ => {}
    }
    let trim_set: Vec<char> =
        if arguments.len() > 1 { text(second).chars().collect() } else { vec![' '] };
    let length = |text: &str| Value::Int(i64::try_from(text.chars().count()).unwrap_or(i64::MAX));
    match name {
        "lower" => Value::Text(text(first).to_ascii_lowercase()),
        "upper" => Value::Text(text(first).to_ascii_uppercase()),
        "ltrim" => Value::Text(text(first).trim_start_matches(&*trim_set).to_owned()),
        "rtrim" => Value::Text(text(first).trim_end_matches(&*trim_set).to_owned()),
        "trim" => Value::Text(text(first).trim_matches(&*trim_set).to_owned()),
        "replace" => {
            let (from, to) = (text(second), text(arguments.get(2).unwrap_or(null)));
            let text = text(first);
            Value::Text(if from.is_empty() { text } else { text.replace(&from, &to) })
        }
        "substr" => substr(&text(first), integer(second), arguments.get(2).map(integer)),
        "length" => match first {
            Value::Bytes(bytes) => Value::Int(i64::try_from(bytes.len()).unwrap_or(i64::MAX)),
            value => length(&text(value)),
        },
        "instr" => {
            let (hay, needle) = (text(first), text(second));
            match hay.find(&needle) {
                Some(at) => match length(&hay[..at]) {
                    Value::Int(before) => Value::Int(before + 1),
                    other => other,
                },
                None => Value::Int(0),
            }
        }
        "hex" => {
            let bytes = match first {
                Value::Bytes(bytes) => bytes.clone(),
                value => text(value).into_bytes(),
            };
            Value::Text(bytes.iter().map(|byte| format!("{byte:02X}")).collect())
        }
        "abs" => match integer(first) {
            Some(number) => number.checked_abs().map_or(Value::Null, Value::Int),
            None => Value::Float(number(first).unwrap_or(0.0).abs()),
        },
        "round" => {
            let digits = integer(second).unwrap_or(0).clamp(0, 15);
            let factor = 10f64.powi(i32::try_from(digits).unwrap_or(0));
            Value::Float((number(first).unwrap_or(0.0) * factor).round() / factor)
        }
        "max" => arguments.iter().max_by(|a, b| compare(a, b)).unwrap_or(null).clone(),
        "min" => arguments.iter().min_by(|a, b| compare(a, b)).unwrap_or(null).clone(),
        // The parser lets no other name through.
        _ => Value::Null,
    }
}

/// Counted from 1; from the end when negative.
fn substr(text: &str, start: Option<i64>, length: Option<Option<i64>>) -> Value {
    let characters: Vec<char> = text.chars().collect();
    let count = i64::try_from(characters.len()).unwrap_or(i64::MAX);
    let start = match start.unwrap_or(1) {
        0 => 0,
        start if start < 0 => (count + start).max(0),
        start => start - 1,
    };
    let length = length.flatten().unwrap_or(count).max(0);
    let place = |at: i64| usize::try_from(at.clamp(0, count)).unwrap_or(0);
    let slice = characters.get(place(start)..place(start.saturating_add(length)));
    Value::Text(slice.unwrap_or_default().iter().collect())
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Column(String),
    Literal(Value),
    Symbol(&'static str),
}

const SYMBOLS: &[&str] =
    &["||", "<=", ">=", "<>", "!=", "==", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")", ","];

fn tokens(mut text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    loop {
        text = text.trim_start();
        let Some(first) = text.chars().next() else { return Some(tokens) };
        let word = |text: &str| {
            text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
        };
        if let Some(rest) = text.strip_prefix('\'') {
            let mut value = String::new();
            let mut rest = rest;
            loop {
                let (before, after) = rest.split_once('\'')?;
                value.push_str(before);
                match after.strip_prefix('\'') {
                    Some(more) => {
                        value.push('\'');
                        rest = more;
                    }
                    None => {
                        text = after;
                        break;
                    }
                }
            }
            tokens.push(Token::Literal(Value::Text(value)));
        } else if let Some(rest) = text.strip_prefix('$') {
            let end = word(rest);
            if end == 0 {
                return None;
            }
            tokens.push(Token::Column(rest[..end].to_owned()));
            text = &rest[end..];
        } else if first.is_ascii_digit() {
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
            let value = match text[..end].parse() {
                Ok(integer) => Value::Int(integer),
                Err(_) => Value::Float(text[..end].parse().ok()?),
            };
            tokens.push(Token::Literal(value));
            text = &text[end..];
        } else if first.is_alphabetic() || first == '_' {
            let end = word(text);
            tokens.push(Token::Word(text[..end].to_owned()));
            text = &text[end..];
        } else {
            let symbol = SYMBOLS.iter().find(|symbol| text.starts_with(**symbol))?;
            tokens.push(Token::Symbol(symbol));
            text = &text[symbol.len()..];
        }
    }
}

/// By precedence, loosest first; each level is left-associative.
const LEVELS: &[&[&str]] = &[
    &["OR"],
    &["AND"],
    &["=", "==", "<>", "!="],
    &["<", "<=", ">", ">="],
    &["+", "-"],
    &["*", "/", "%"],
    &["||"],
];

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

/// Deeper nesting than anybody writes; it bounds the parser's own stack.
const DEPTH_MAX: usize = 64;

impl Parser {
    fn keyword(&mut self, word: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Symbol(s)) if *s == symbol);
        self.at += usize::from(found);
        found
    }

    fn level(&mut self, level: usize) -> Option<Node> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.level(level + 1)?;
        loop {
            if level == 2 && self.keyword("IS") {
                let not = self.keyword("NOT");
                if !self.keyword("NULL") {
                    return None;
                }
                left = Node::IsNull(Box::new(left), !not);
                continue;
            }
            let Some(operator) =
                operators.iter().find(|operator| self.symbol(operator) || self.keyword(operator))
            else {
                return Some(left);
            };
            left = Node::Binary(operator, Box::new(left), Box::new(self.level(level + 1)?));
        }
    }

    fn expression(&mut self) -> Option<Node> {
        self.depth += 1;
        let node = if self.depth > DEPTH_MAX { None } else { self.level(0) };
        self.depth -= 1;
        node
    }

    fn unary(&mut self) -> Option<Node> {
        if self.keyword("NOT") {
            self.depth += 1;
            let node = if self.depth > DEPTH_MAX { None } else { self.level(2) };
            self.depth -= 1;
            return node.map(|node| Node::Not(Box::new(node)));
        }
        let mut negative = false;
        while self.symbol("-") {
            negative = !negative;
        }
        let node = self.primary()?;
        Some(if negative { Node::Negate(Box::new(node)) } else { node })
    }

    fn primary(&mut self) -> Option<Node> {
        if self.symbol("(") {
            let node = self.expression()?;
            return self.symbol(")").then_some(node);
        }
        if self.keyword("NULL") {
            return Some(Node::Literal(Value::Null));
        }
        if self.keyword("CASE") {
            return self.case();
        }
        let token = self.tokens.get(self.at)?.clone();
        self.at += 1;
        match token {
            Token::Literal(value) => Some(Node::Literal(value)),
            Token::Column(name) => Some(Node::Column(name)),
            Token::Word(name) => {
                let name = name.to_ascii_lowercase();
                let name = Expression::FUNCTIONS.iter().find(|known| **known == name)?;
                if !self.symbol("(") {
                    return None;
                }
                let mut arguments = Vec::new();
                if !self.symbol(")") {
                    loop {
                        arguments.push(self.expression()?);
                        if self.symbol(")") {
                            break;
                        }
                        if !self.symbol(",") {
                            return None;
                        }
                    }
                }
                Some(Node::Call(name, arguments))
            }
            Token::Symbol(_) => None,
        }
    }

    fn case(&mut self) -> Option<Node> {
        let mut arms = Vec::new();
        while self.keyword("WHEN") {
            let when = self.expression()?;
            if !self.keyword("THEN") {
                return None;
            }
            arms.push((when, self.expression()?));
        }
        let otherwise =
            if self.keyword("ELSE") { Some(Box::new(self.expression()?)) } else { None };
        (self.keyword("END") && !arms.is_empty()).then_some(Node::Case(arms, otherwise))
    }
}

impl FromStr for Expression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = tokens(text).and_then(|tokens| {
            let mut parser = Parser { tokens, at: 0, depth: 0 };
            let root = parser.expression()?;
            (parser.at == parser.tokens.len()).then_some(root)
        });
        let root = parsed.ok_or_else(|| {
            Error::settings(format!(
                "expression {text:?} is not understood; there are $COLUMN, 'text', numbers, || + - \
                 * / % = <> < <= > >=, AND, OR, NOT, IS NULL, CASE WHEN, and the functions {}",
                Self::FUNCTIONS.join(", ")
            ))
        })?;
        Ok(Self { text: text.to_owned(), root })
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Expression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> String {
        let expression: Expression = text.parse().unwrap();
        let column = |name: &str| {
            Ok(match name {
                "FIRST" => Value::Text("Ada".into()),
                "N" => Value::Int(7),
                _ => Value::Null,
            })
        };
        expression.evaluate(&TableName::new("s", "t"), &column).unwrap().to_string()
    }

    #[test]
    fn as_sqlite_evaluates_them() {
        for (text, expected) in [
            ("$FIRST || ' ' || upper('x')", "'Ada X'"),
            ("1 + 2 * 3 - 4 / 3", "6"),
            ("7 / 2", "3"),
            ("7 / 0", "NULL"),
            ("7.0 / 2", "3.5"),
            ("-$N % 4", "-3"),
            ("$MISSING || 'x'", "NULL"),
            ("coalesce($MISSING, $N)", "7"),
            ("CASE WHEN $N > 5 THEN 'big' ELSE 'small' END", "'big'"),
            ("CASE WHEN $MISSING THEN 1 END", "NULL"),
            ("$MISSING IS NULL AND NOT $N IS NULL", "1"),
            ("NULL OR 1", "1"),
            ("substr('hello', 2, 3)", "'ell'"),
            ("substr('hello', -3)", "'llo'"),
            ("instr('hello', 'l')", "3"),
            ("replace('a-b', '-', '')", "'ab'"),
            ("trim('  x ')", "'x'"),
            ("hex('AZ')", "'415A'"),
            ("length('né')", "2"),
            ("round(2.567, 1)", "2.6"),
            ("max(1, 3, 2)", "3"),
            ("nullif(1, 1)", "NULL"),
            ("$AR_M_SOURCE_SCHEMA || '.' || $AR_M_SOURCE_TABLE_NAME", "'s.t'"),
            ("'it''s'", "'it''s'"),
            ("9223372036854775807 + 1", "9223372036854776000"),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let deep = format!("{}1{}", "(".repeat(1000), ")".repeat(1000));
        for text in ["", "1 +", "strftime('%s')", "'open", "$", "(1", "1 2", "CASE END", &deep] {
            let error = text.parse::<Expression>().unwrap_err().to_string();
            assert!(error.contains("is not understood"), "{error}");
        }
    }
}
