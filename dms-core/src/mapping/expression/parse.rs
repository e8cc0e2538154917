//! Expressions from their text.

use super::function::arity;
use super::{Expression, METADATA, Node};
use crate::value::Value;

/// The expression that a text is, if it is one.
pub(super) fn parse(text: &str) -> Option<Node> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let root = parser.expression()?;
    (parser.at == parser.tokens.len()).then_some(root)
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
            if rest.starts_with("AR_") && !METADATA.contains(&&rest[..end]) {
                return None;
            }
            tokens.push(Token::Column(rest[..end].to_owned()));
            text = &rest[end..];
        } else if first.is_ascii_digit() {
            let end = end_of_number(text);
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

/// Digits with at most one point, and an exponent.
fn end_of_number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
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
        loop {
            if self.symbol("-") {
                negative = !negative;
            } else if !self.symbol("+") {
                break;
            }
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
                let fits = arity(name).contains(&arguments.len());
                fits.then_some(Node::Call(name, arguments))
            }
            Token::Symbol(_) => None,
        }
    }

    fn case(&mut self) -> Option<Node> {
        let mut arms = Vec::new();
        // `CASE x WHEN y` is `CASE WHEN x = y`.
        let is_when = matches!(self.tokens.get(self.at), Some(Token::Word(w)) if w.eq_ignore_ascii_case("WHEN"));
        let subject = if is_when { None } else { Some(self.expression()?) };
        while self.keyword("WHEN") {
            let mut when = self.expression()?;
            if let Some(subject) = &subject {
                when = Node::Binary("=", Box::new(subject.clone()), Box::new(when));
            }
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
