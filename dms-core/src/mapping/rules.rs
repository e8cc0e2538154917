//! DMS's own table-mapping JSON (user guide, "Using table mapping to specify task settings").

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::data_type::{DataTypeJson, known_name};
use super::transformation::{Action, ObjectName, Transformation};
use super::{
    Expression, Filter, FilterCondition, FilterOperator, LobMode, ParallelLoad, Pattern,
    RuleAction, SelectionRule, TableMapping, TableSettings, TableType,
};
use crate::json;
use crate::schema::TableName;
use crate::value::Value;
use crate::{Error, Result};

/// Adds every rule of the document to `mapping`.
pub(super) fn read(document: Json, mapping: &mut TableMapping) -> Result<()> {
    let document: Document = json::parse_value(document, "table-mappings")?;
    let mut seen: Vec<u64> = Vec::new();
    let mut selections = Vec::new();
    let mut transformations = Vec::new();
    for (index, mut rule) in document.rules.into_iter().enumerate() {
        let id = take_id(&mut rule, index)?;
        let what = format!("rule {id} of table-mappings");
        if seen.contains(&id) {
            return Err(Error::settings(format!("{what}: the rule-id is given twice")));
        }
        seen.push(id);
        rule.remove("rule-name");
        match take_text(&mut rule, "rule-type", &what)?.as_str() {
            "selection" => {
                let rule: SelectionJson = json::parse_value(rule.into(), &what)?;
                selections.push((id, rule.read(&what)?));
            }
            "transformation" => {
                let rule: TransformationJson = json::parse_value(rule.into(), &what)?;
                transformations.push((id, rule.read(&what)?));
            }
            "table-settings" => {
                let rule: TableSettingsJson = json::parse_value(rule.into(), &what)?;
                mapping.settings.push(rule.read()?);
            }
            other => {
                let hint = json::nearest(other, &["selection", "transformation", "table-settings"])
                    .map(|near| format!("; did you mean {near:?}?"))
                    .unwrap_or_default();
                return Err(Error::settings(format!(
                    "{what}: rule-type {other:?} is not supported{hint}"
                )));
            }
        }
    }
    // Of several rules for one object and action the one with the lowest id counts.
    selections.sort_by_key(|(id, _)| *id);
    selections.into_iter().for_each(|(_, rule)| mapping.selection.push(rule));
    transformations.sort_by_key(|(id, _)| *id);
    mapping.transformations.extend(transformations.into_iter().map(|(_, rule)| rule));
    if !mapping.selection.rules().iter().any(|rule| rule.action != RuleAction::Exclude) {
        return Err(Error::settings(
            "table-mappings: at least one selection rule must include tables",
        ));
    }
    Ok(())
}

fn take_id(rule: &mut Map<String, Json>, index: usize) -> Result<u64> {
    let id = match rule.remove("rule-id") {
        Some(Json::String(text)) => text.trim().parse().ok(),
        Some(Json::Number(number)) => number.as_u64(),
        _ => None,
    };
    id.ok_or_else(|| {
        Error::settings(format!("table-mappings: rules[{index}] needs a numeric rule-id"))
    })
}

fn take_text(rule: &mut Map<String, Json>, key: &str, what: &str) -> Result<String> {
    match rule.remove(key) {
        Some(Json::String(text)) => Ok(text),
        _ => Err(Error::settings(format!("{what} needs a {key}"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    rules: Vec<Map<String, Json>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Locator {
    schema_name: String,
    table_name: Option<String>,
    column_name: Option<String>,
    data_type: Option<String>,
    table_type: Option<TableType>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SelectionJson {
    object_locator: Locator,
    rule_action: RuleAction,
    load_order: Option<Number>,
    #[serde(default)]
    filters: Vec<FilterJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FilterJson {
    filter_type: FilterType,
    column_name: String,
    filter_conditions: Vec<ConditionJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FilterType {
    Source,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ConditionJson {
    filter_operator: FilterOperator,
    value: Option<Json>,
    start_value: Option<Json>,
    end_value: Option<Json>,
}

impl SelectionJson {
    fn read(self, what: &str) -> Result<SelectionRule> {
        let table = self.object_locator.table_name.as_deref().unwrap_or("%");
        let mut rule =
            SelectionRule::new(self.rule_action, &self.object_locator.schema_name, table);
        rule.table_type = self.object_locator.table_type.unwrap_or_default();
        rule.load_order = Number::read(self.load_order.as_ref(), what)?.unwrap_or(0);
        if self.filters.is_empty() {
            return Ok(rule);
        }
        if self.rule_action == RuleAction::Exclude {
            return Err(Error::settings(format!("{what}: only include rules have filters")));
        }
        let mut columns = Vec::new();
        for filter in self.filters {
            let FilterType::Source = filter.filter_type;
            let conditions = filter.filter_conditions.into_iter().map(|c| c.read(what));
            columns.push((filter.column_name, conditions.collect::<Result<Vec<_>>>()?));
        }
        rule.filter = Some(Filter { columns });
        Ok(rule)
    }
}

impl ConditionJson {
    fn read(self, what: &str) -> Result<FilterCondition> {
        use FilterOperator::{Between, NotBetween, NotNull, Null};
        let operator = self.filter_operator;
        let values: Vec<Json> = match operator {
            Null | NotNull => Vec::new(),
            Between | NotBetween => self.start_value.into_iter().chain(self.end_value).collect(),
            _ => self.value.into_iter().collect(),
        };
        let expected = match operator {
            Null | NotNull => 0,
            Between | NotBetween => 2,
            _ => 1,
        };
        if values.len() != expected {
            return Err(Error::settings(format!(
                "{what}: filter-operator {operator:?} needs {}",
                if expected == 2 { "start-value and end-value" } else { "value" }
            )));
        }
        let values = values.into_iter().map(|value| scalar(value, what));
        Ok(FilterCondition { operator, values: values.collect::<Result<_>>()? })
    }
}

fn scalar(value: Json, what: &str) -> Result<Value> {
    match value {
        Json::String(text) => Ok(Value::Text(text)),
        Json::Number(number) => Ok(Value::Text(number.to_string())),
        Json::Bool(flag) => Ok(Value::Bool(flag)),
        _ => Err(Error::settings(format!("{what}: a bound must be a text or a number"))),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TransformationJson {
    rule_target: RuleTarget,
    rule_action: String,
    object_locator: Locator,
    value: Option<String>,
    old_value: Option<String>,
    expression: Option<String>,
    data_type: Option<DataTypeJson>,
    primary_key_def: Option<PrimaryKeyJson>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum RuleTarget {
    Schema,
    Table,
    Column,
}

/// DMS writes numbers both as numbers and as text.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Number {
    Number(i64),
    Text(String),
}

impl Number {
    pub(super) fn read<T: TryFrom<i64>>(number: Option<&Self>, what: &str) -> Result<Option<T>> {
        let value = match number {
            None => return Ok(None),
            // As DMS's console writes a field left open.
            Some(Self::Text(text)) if text.is_empty() => return Ok(None),
            Some(Self::Number(number)) => Some(*number),
            Some(Self::Text(text)) => text.trim().parse().ok(),
        };
        let value = value.and_then(|value| T::try_from(value).ok());
        let value = value.ok_or_else(|| Error::settings(format!("{what}: a wrong number")))?;
        Ok(Some(value))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PrimaryKeyJson {
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "origin")]
    _origin: Option<String>,
    columns: Vec<String>,
}

impl TransformationJson {
    fn read(self, what: &str) -> Result<Transformation> {
        let missing = |key: &str| {
            Error::settings(format!("{what}: rule-action {} needs {key}", self.rule_action))
        };
        let object = match self.rule_target {
            RuleTarget::Schema => ObjectName::Schema,
            RuleTarget::Table => ObjectName::Table,
            RuleTarget::Column => ObjectName::Column,
        };
        let value = || self.value.clone().ok_or_else(|| missing("value"));
        let old = || self.old_value.clone().ok_or_else(|| missing("old-value"));
        let data_type = || {
            self.data_type.as_ref().ok_or_else(|| missing("data-type")).and_then(|t| t.read(what))
        };
        let action = match (self.rule_action.as_str(), self.rule_target) {
            ("rename", _) => Action::Rename(value()?),
            ("convert-lowercase", _) => Action::Lowercase,
            ("convert-uppercase", _) => Action::Uppercase,
            ("add-prefix", _) => Action::AddPrefix(value()?),
            ("add-suffix", _) => Action::AddSuffix(value()?),
            ("remove-prefix", _) => Action::ReplacePrefix(value()?, String::new()),
            ("remove-suffix", _) => Action::ReplaceSuffix(value()?, String::new()),
            ("replace-prefix", _) => Action::ReplacePrefix(old()?, value()?),
            ("replace-suffix", _) => Action::ReplaceSuffix(old()?, value()?),
            ("remove-column", RuleTarget::Column) => Action::RemoveColumn,
            ("include-column", RuleTarget::Column) => Action::IncludeColumn,
            ("add-column", RuleTarget::Column) => {
                let text = self.expression.as_deref().ok_or_else(|| missing("expression"))?;
                let expression: Expression = text.parse().map_err(|error: Error| {
                    Error::settings(format!("{what}: {}", error.message()))
                })?;
                Action::AddColumn { name: value()?, expression, logical_type: data_type()? }
            }
            ("change-data-type", RuleTarget::Column) => Action::ChangeDataType(data_type()?),
            ("define-primary-key", RuleTarget::Table) => {
                let key = self.primary_key_def.as_ref();
                Action::DefinePrimaryKey(
                    key.ok_or_else(|| missing("primary-key-def"))?.columns.clone(),
                )
            }
            (other, _) => {
                return Err(Error::settings(format!(
                    "{what}: rule-action {other:?} is not supported for this rule-target"
                )));
            }
        };
        let data_type = self.object_locator.data_type.as_deref();
        let data_type = data_type.map(|name| known_name(name, what)).transpose()?;
        let pattern = |text: &Option<String>| Pattern::new(text.as_deref().unwrap_or("%"));
        Ok(Transformation {
            object,
            schema: Pattern::new(&self.object_locator.schema_name),
            table: pattern(&self.object_locator.table_name),
            column: pattern(&self.object_locator.column_name),
            data_type,
            action,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TableSettingsJson {
    object_locator: Locator,
    parallel_load: Option<ParallelLoadJson>,
    lob_settings: Option<LobJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ParallelLoadJson {
    r#type: ParallelLoadType,
    #[serde(default)]
    partitions: Vec<String>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    boundaries: Vec<Vec<Json>>,
    #[serde(default)]
    segment_names: Vec<String>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum ParallelLoadType {
    PartitionsAuto,
    SubpartitionsAuto,
    PartitionsList,
    Ranges,
    None,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LobJson {
    mode: LobModeJson,
    bulk_max_size: Option<Number>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LobModeJson {
    Limited,
    Unlimited,
    None,
}

impl TableSettingsJson {
    fn read(self) -> Result<TableSettings> {
        let what = "table-settings";
        let name = TableName::new(
            self.object_locator.schema_name,
            self.object_locator.table_name.unwrap_or_default(),
        );
        let parallel_load = self.parallel_load.map(|load| load.read(what)).transpose()?;
        let lob_mode = match self.lob_settings {
            None => None,
            Some(LobJson { mode: LobModeJson::Unlimited, .. }) => Some(LobMode::Full),
            Some(LobJson { mode: LobModeJson::None, .. }) => Some(LobMode::None),
            Some(LobJson { mode: LobModeJson::Limited, bulk_max_size }) => {
                let kib: Option<u32> = Number::read(bulk_max_size.as_ref(), what)?;
                let kib = kib.filter(|kib| *kib > 0).ok_or_else(|| {
                    Error::settings(format!("{what}: mode limited needs a bulk-max-size in KB"))
                })?;
                Some(LobMode::Limited(u64::from(kib) * 1024))
            }
        };
        Ok(TableSettings { name, parallel_load, lob_mode })
    }
}

impl ParallelLoadJson {
    fn read(self, what: &str) -> Result<ParallelLoad> {
        Ok(match self.r#type {
            ParallelLoadType::None => ParallelLoad::None,
            ParallelLoadType::PartitionsAuto | ParallelLoadType::SubpartitionsAuto => {
                ParallelLoad::Partitions(None)
            }
            ParallelLoadType::PartitionsList => ParallelLoad::Partitions(Some(self.partitions)),
            ParallelLoadType::Ranges => {
                let boundaries = self.boundaries.into_iter().map(|bound| {
                    bound.into_iter().map(|value| scalar(value, what)).collect::<Result<Vec<_>>>()
                });
                ParallelLoad::Ranges {
                    columns: self.columns,
                    boundaries: boundaries.collect::<Result<_>>()?,
                    names: self.segment_names,
                }
            }
        })
    }
}
