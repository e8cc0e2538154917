//! Expressions of `add-column` rules, in the SQLite syntax that DMS uses.

mod function;
mod operator;
mod parse;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::function::call;
use self::operator::{binary, truth};
use self::parse::parse;
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
        let evaluated = self.root.evaluate(table, column);
        evaluated.map_err(|error| error.context("expression", &self.text))
    }
}

/// What there is to know of a row besides its columns.
const METADATA: &[&str] = &["AR_M_SOURCE_SCHEMA", "AR_M_SOURCE_TABLE_NAME"];

impl Node {
    fn columns<'a>(&'a self, columns: &mut Vec<&'a str>) {
        match self {
            Self::Literal(_) => {}
            Self::Column(name) if METADATA.contains(&name.as_str()) => {}
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
            Self::Negate(node) => binary("-", &Value::Int(0), &eval(node)?)?,
            Self::IsNull(node, is) => Value::Int(((eval(node)? == Value::Null) == *is).into()),
            Self::Binary(operator, left, right) => binary(operator, &eval(left)?, &eval(right)?)?,
            Self::Case(arms, otherwise) => {
                for (when, then) in arms {
                    if truth(&eval(when)?) == Some(true) {
                        return eval(then);
                    }
                }
                otherwise.as_ref().map_or(Ok(Value::Null), |node| eval(node))?
            }
            Self::Call(name, arguments) => {
                call(name, &arguments.iter().map(eval).collect::<Result<Vec<_>>>()?)?
            }
        })
    }
}

impl FromStr for Expression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let root = parse(text).ok_or_else(|| {
            Error::settings(format!(
                "expression {text:?} is not understood; there are $COLUMN, 'text', numbers, || + - \
                 * / % = <> < <= > >=, AND, OR, NOT, IS NULL, CASE WHEN, {}, and the functions {}, each with its arguments",
                METADATA.iter().map(|name| format!("${name}")).collect::<Vec<_>>().join(", "),
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
        match expression.evaluate(&TableName::new("s", "t"), &column).unwrap() {
            Value::Float(value) => operator::text(&Value::Float(value)).unwrap(),
            value => value.to_string(),
        }
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
            ("9223372036854775807 + 1", "9.223372036854776e+18"),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    /// `SELECT quote(…)` of SQLite 3.40 itself.
    #[test]
    fn answers_of_sqlite() {
        for (text, answer) in [
            ("substr('hello',0,3)", "'he'"),
            ("substr('hello',0)", "'hello'"),
            ("substr('hello',-7,4)", "'he'"),
            ("substr('hello',3,-2)", "'he'"),
            ("substr('hello',-9)", "'hello'"),
            ("7.5 % 2", "1.0"),
            ("-7.5 % 2", "-1.0"),
            ("5.5 % 0.5", "NULL"),
            ("'12abc' + 1", "13"),
            ("'1.5x' * 2", "3.0"),
            ("'1e2' + 0", "100.0"),
            ("' 12 ' + 0", "12"),
            ("'-' + 0", "0"),
            ("'.5' + 0", "0.5"),
            ("NOT '1'", "0"),
            ("NOT 'abc'", "1"),
            ("(-9223372036854775807-1) % -1", "0"),
            ("9007199254740993 > 9007199254740992.0", "1"),
            ("1e3", "1000.0"),
            ("+2", "2"),
            ("CASE 2 WHEN 1 THEN 'a' WHEN 2 THEN 'b' END", "'b'"),
            ("CASE NULL WHEN NULL THEN 1 ELSE 2 END", "2"),
            ("round('2.5')", "3.0"),
            ("abs('-3')", "3.0"),
            ("max('a', 1)", "'a'"),
            ("5 / '2'", "2"),
            ("7 % '1e2'", "0.0"),
            ("substr('hello', '2.9')", "'ello'"),
            ("substr('hello', 4, 9)", "'lo'"),
            ("hex(NULL)", "''"),
            ("9e999 - 9e999", "NULL"),
            ("1e300 || ''", "'1.0e+300'"),
            ("0.00001 || ''", "'1.0e-05'"),
            ("1e3 || ''", "'1000.0'"),
            ("round(2.675, 2)", "2.68"),
            ("round(-0.125, 2)", "-0.13"),
            ("round(1e300, 9)", "1.0e+300"),
            ("max(1, 1.0)", "1"),
            ("min(1, 1.0)", "1.0"),
            ("1152921504606846976 = 1152921504606846976.0", "1"),
            ("1152921504606847000 = 1152921504606846976.0", "0"),
        ] {
            assert_eq!(value(text), answer, "{text}");
        }
    }

    #[test]
    fn what_would_be_rounded_is_an_error() {
        let big = |_: &str| Ok(Value::Decimal("12345678901234567890.5".into()));
        let table = TableName::new("s", "t");
        let evaluate = |text: &str| text.parse::<Expression>().unwrap().evaluate(&table, &big);
        let error = evaluate("$BIG / 2").unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Data);
        assert!(error.to_string().contains("$BIG / 2"), "{error}");
        assert!(evaluate("$BIG + 0.5").is_err(), "0.5 is a float");
        let decimal = |text: &str| Value::Decimal(text.to_owned());
        assert_eq!(evaluate("$BIG + 1").unwrap(), decimal("12345678901234567891.5"));
        assert_eq!(evaluate("-$BIG * 2").unwrap(), decimal("-24691357802469135781.0"));
        assert!(evaluate("$BIG * $BIG * $BIG").is_err(), "more digits than there is room for");
        assert_eq!(evaluate("$BIG > 12345678901234567890").unwrap(), Value::Int(1));
        assert_eq!(evaluate("$BIG || ''").unwrap(), Value::Text("12345678901234567890.5".into()));
    }

    #[test]
    fn bytes_are_bytes() {
        let table = TableName::new("s", "t");
        let evaluate = |text: &str, bytes: &[u8]| {
            let column = |_: &str| Ok(Value::Bytes(bytes.to_vec()));
            text.parse::<Expression>().unwrap().evaluate(&table, &column)
        };
        assert_eq!(evaluate("substr($B, 2, 1)", b"\xc3\xa9").unwrap(), Value::Bytes(vec![0xa9]));
        assert_eq!(evaluate("instr($B, substr($B, 2))", b"\xc3\xa9").unwrap(), Value::Int(2));
        assert_eq!(evaluate("length($B)", b"\xc3\xa9").unwrap(), Value::Int(2));
        assert_eq!(evaluate("$B || '!'", b"\xc3\xa9").unwrap(), Value::Text("é!".into()));
        let error = evaluate("upper($B)", b"\xff").unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Data, "{error}");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let deep = format!("{}1{}", "(".repeat(1000), ")".repeat(1000));
        for text in [
            "",
            "1 +",
            "strftime('%s')",
            "'open",
            "$",
            "(1",
            "1 2",
            "CASE END",
            "max(1)",
            "upper()",
            "$AR_H_CHANGE_SEQ",
            "1e",
            &deep,
        ] {
            let error = text.parse::<Expression>().unwrap_err().to_string();
            assert!(error.contains("is not understood"), "{error}");
        }
    }
}
