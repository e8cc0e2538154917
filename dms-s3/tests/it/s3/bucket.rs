//! What a server keeps: one bucket in memory, with what S3 promises of conditional writes,
//! multipart uploads and listings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use bytes::Bytes;
use s3s::dto::{CommonPrefix, ETag, Object as Listed, Range, Timestamp};
use s3s::{S3Result, s3_error};
use tokio::sync::Notify;

pub(crate) const BUCKET: &str = "lake";
/// The most keys of a page of a listing, so few that tests see several pages.
const PAGE: usize = 7;
/// S3 refuses smaller parts, except the last.
const PART_BYTES_MIN: usize = 5 << 20;

/// Where a server can be told to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// An object, or a part of one, is to be read.
    Get,
    /// A part of an upload has arrived; nobody hears of it.
    Part,
    /// An upload is to be completed, and is not.
    Completing,
    /// An upload is complete; nobody hears of it.
    Completed,
}

/// What a store may do otherwise than S3 with all rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quirk {
    /// It takes `If-None-Match` for nothing.
    IgnoresConditions,
    /// The key may not delete.
    ForbidsDeletes,
}

#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) e_tag: ETag,
    pub(crate) modified: Timestamp,
}

/// An upload that is not complete.
#[derive(Debug)]
struct Upload {
    key: String,
    parts: BTreeMap<i32, (ETag, Bytes)>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    /// Of tags and uploads, none of which comes twice.
    count: u64,
    requests: u64,
    death: Option<(Point, u32)>,
    quirk: Option<Quirk>,
    pause: Option<(String, Pause)>,
}

/// A listing that waits; see [`Bucket::pause_at`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Pause {
    /// After it has looked.
    pub(crate) late: bool,
    pub(crate) reached: Arc<Notify>,
    pub(crate) go_on: Arc<Notify>,
}

impl Pause {
    pub(crate) async fn wait(&self) {
        self.reached.notify_one();
        self.go_on.notified().await;
    }
}

/// A bucket; it outlives its servers.
#[derive(Debug, Default)]
pub(crate) struct Bucket(Mutex<State>);

impl Bucket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn with(quirk: Quirk) -> Self {
        let bucket = Self::default();
        bucket.state().quirk = Some(quirk);
        bucket
    }

    /// Lets the server die when it comes to `point` for the `nth` time.
    pub(crate) fn die_at(&self, point: Point, nth: u32) {
        self.state().death = Some((point, nth));
    }

    /// Whether the server dies here.
    pub(crate) fn dies(&self, point: Point) -> bool {
        let mut state = self.state();
        match &mut state.death {
            Some((at, nth)) if *at == point => {
                *nth -= 1;
                let dies = *nth == 0;
                if dies {
                    state.death = None;
                }
                dies
            }
            _ => false,
        }
    }

    /// Lets the next listing of `prefix` wait, before or after it has looked.
    pub(crate) fn pause_at(&self, prefix: &str, late: bool) -> Pause {
        let pause = Pause { late, ..Pause::default() };
        self.state().pause = Some((prefix.to_owned(), pause.clone()));
        pause
    }

    /// What a listing of `prefix` has to wait for.
    pub(crate) fn pause(&self, prefix: &str) -> Option<Pause> {
        self.state().pause.take_if(|(at, _)| at == prefix).map(|(_, pause)| pause)
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Uploads under way or given up.
    pub(crate) fn uploads(&self) -> usize {
        self.state().uploads.len()
    }

    pub(crate) fn requests(&self) -> u64 {
        self.state().requests
    }

    /// Whether a request is for this bucket.
    pub(crate) fn check(&self, bucket: &str) -> S3Result<()> {
        self.state().requests += 1;
        if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    pub(crate) fn put(&self, key: String, bytes: Bytes, create: bool) -> S3Result<ETag> {
        let mut state = self.state();
        let conditions = state.quirk != Some(Quirk::IgnoresConditions);
        if create && conditions && state.objects.contains_key(&key) {
            return Err(s3_error!(PreconditionFailed));
        }
        Ok(state.insert(key, bytes))
    }

    pub(crate) fn get(&self, key: &str) -> S3Result<Object> {
        self.state().objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// The bytes of a range and how `Content-Range` says it.
    pub(crate) fn slice(bytes: &Bytes, range: Option<Range>) -> S3Result<(Bytes, Option<String>)> {
        let Some(range) = range else { return Ok((bytes.clone(), None)) };
        let range = range.check(bytes.len() as u64)?;
        let said = format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len());
        let at = |place: u64| usize::try_from(place).unwrap();
        Ok((bytes.slice(at(range.start)..at(range.end)), Some(said)))
    }

    /// It is no error that there is none.
    pub(crate) fn delete(&self, key: &str) -> S3Result<()> {
        let mut state = self.state();
        if state.quirk == Some(Quirk::ForbidsDeletes) {
            return Err(s3_error!(AccessDenied, "you may not"));
        }
        state.objects.remove(key);
        Ok(())
    }

    /// A page of a listing: objects, common prefixes, and the token of the next page if any.
    pub(crate) fn list(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        after: &str,
    ) -> (Vec<Listed>, Vec<CommonPrefix>, Option<String>) {
        let state = self.state();
        let (mut listed, mut prefixes) = (Vec::new(), BTreeSet::new());
        let mut last = None;
        for (key, object) in state.objects.range(prefix.to_owned()..) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let common = delimiter.and_then(|delimiter| {
                rest.find(delimiter).map(|at| &key[..prefix.len() + at + delimiter.len()])
            });
            let place = common.unwrap_or(key);
            if place <= after || prefixes.contains(place) {
                continue;
            }
            if listed.len() + prefixes.len() == PAGE {
                return (listed, common_prefixes(prefixes), last);
            }
            last = Some(place.to_owned());
            if common.is_some() {
                prefixes.insert(place.to_owned());
            } else {
                listed.push(Listed {
                    key: Some(key.clone()),
                    e_tag: Some(object.e_tag.clone()),
                    last_modified: Some(object.modified.clone()),
                    size: Some(i64::try_from(object.bytes.len()).unwrap()),
                    ..Listed::default()
                });
            }
        }
        (listed, common_prefixes(prefixes), None)
    }

    pub(crate) fn begin_upload(&self, key: String) -> String {
        let mut state = self.state();
        state.count += 1;
        let id = format!("upload-{}", state.count);
        state.uploads.insert(id.clone(), Upload { key, parts: BTreeMap::new() });
        id
    }

    pub(crate) fn put_part(&self, id: &str, number: i32, bytes: Bytes) -> S3Result<ETag> {
        let mut state = self.state();
        let tag = state.tag();
        let upload = state.uploads.get_mut(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(number, (tag.clone(), bytes));
        Ok(tag)
    }

    /// Makes an object of the parts that are named.
    pub(crate) fn complete(
        &self,
        id: &str,
        key: &str,
        named: &[(i32, Option<ETag>)],
    ) -> S3Result<ETag> {
        let mut state = self.state();
        let upload = state.uploads.get(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        if upload.key != key {
            return Err(s3_error!(NoSuchUpload));
        }
        if named.is_empty() || !named.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(s3_error!(InvalidPartOrder));
        }
        let mut whole = Vec::new();
        for (at, (number, tag)) in named.iter().enumerate() {
            let (held, bytes) = upload.parts.get(number).ok_or_else(|| s3_error!(InvalidPart))?;
            if tag.as_ref() != Some(held) {
                return Err(s3_error!(InvalidPart));
            }
            if bytes.len() < PART_BYTES_MIN && at + 1 < named.len() {
                return Err(s3_error!(EntityTooSmall));
            }
            whole.extend_from_slice(bytes);
        }
        state.uploads.remove(id);
        Ok(state.insert(key.to_owned(), whole.into()))
    }

    pub(crate) fn abort(&self, id: &str) -> S3Result<()> {
        self.state().uploads.remove(id).map(|_| ()).ok_or_else(|| s3_error!(NoSuchUpload))
    }
}

impl State {
    fn tag(&mut self) -> ETag {
        self.count += 1;
        ETag::Strong(format!("tag-{}", self.count))
    }

    fn insert(&mut self, key: String, bytes: Bytes) -> ETag {
        let e_tag = self.tag();
        let modified = Timestamp::from(SystemTime::now());
        self.objects.insert(key, Object { bytes, e_tag: e_tag.clone(), modified });
        e_tag
    }
}

fn common_prefixes(prefixes: BTreeSet<String>) -> Vec<CommonPrefix> {
    prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect()
}
