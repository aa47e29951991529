//! What is done in the store, each in one step of it. Its clock is the one that counts, since those of instances differ.
//!
//! Keys begin with the prefix of the configuration: `rate:CLIENT` is the theoretical arrival time of a client's bucket, `held:CLIENT`
//! a hash of how many sessions each instance has of it, `alive:INSTANCE` stands while that instance lives, `denied` is a hash of
//! subjects, and `denied:version` counts its changes. CLIENT is a digest. All expire but the last two.

/// Whether a client may open one more session: a slot of its rate, then a place.
///
/// Keys: the rate, the places. Arguments: microseconds between slots (0: no limit) and of burst; the most sessions (-1: no limit),
/// this instance, how many it has, what keys of living instances begin with, milliseconds that the places are kept.
///
/// Answers `{0, 0}` if it may, `{1, MICROSECONDS}` if it has to wait, `{2, 0}` if it has too many.
pub const ENTER: &str = r"
local interval, slack, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if interval > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  -- What is further in the future than any slot that is given comes of another clock, or of another rate.
  local arrival = math.min(tonumber(redis.call('GET', KEYS[1]) or 0), now + slack)
  local following = math.max(arrival, now) + interval
  local wait = following - now - slack
  if wait > 0 then
    return {1, wait}
  end
  redis.call('SET', KEYS[1], string.format('%.0f', following), 'PX', math.ceil((following - now) / 1000))
end
if most >= 0 then
  local me, count = ARGV[4], tonumber(ARGV[5])
  local sum, gone = count, {}
  local held = redis.call('HGETALL', KEYS[2])
  for i = 1, #held, 2 do
    if held[i] ~= me then
      if redis.call('EXISTS', ARGV[6] .. held[i]) == 1 then
        sum = sum + tonumber(held[i + 1])
      else
        gone[#gone + 1] = held[i]
      end
    end
  end
  for _, instance in ipairs(gone) do
    redis.call('HDEL', KEYS[2], instance)
  end
  if sum > most then
    return {2, 0}
  end
  redis.call('HSET', KEYS[2], me, count)
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
end
return {0, 0}
";

/// Tells how many sessions clients have here.
///
/// Keys: the places of each. Arguments: this instance, milliseconds that they are kept, how many it has of each.
pub const TELL: &str = r"
for i, key in ipairs(KEYS) do
  local count = ARGV[i + 2]
  if count == '0' then
    redis.call('HDEL', key, ARGV[1])
  else
    redis.call('HSET', key, ARGV[1], count)
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
return 0
";

/// A sign of life. Keys: that of this instance, the version of the list. Arguments: the lease in milliseconds.
///
/// Answers whether the lease was still there, the version, and the time in milliseconds.
pub const BEAT: &str = r"
local time = redis.call('TIME')
local was = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return {was, tonumber(redis.call('GET', KEYS[2]) or 0), time[1] * 1000 + math.floor(time[2] / 1000)}
";

/// The whole list of denied subjects. Keys: the list, its version. Answers the version, and then subjects and entries by turns.
pub const LIST: &str = r"
local list = redis.call('HGETALL', KEYS[1])
table.insert(list, 1, tonumber(redis.call('GET', KEYS[2]) or 0))
return list
";

/// Denies a subject. Keys: the list, its version. Arguments: the subject, its entry, the most entries, and a version: if it is 0,
/// the entry is new, and what has expired is taken out; otherwise one that is there stays, and the version becomes greater than
/// this one.
///
/// Answers `{0, VERSION}`, or `{1, 0}` if there are too many.
pub const DENY: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = tonumber(ARGV[4])
local list = known == 0 and redis.call('HGETALL', KEYS[1]) or {}
for i = 1, #list, 2 do
  local till = tonumber(string.match(list[i + 1], '^(%d+):') or 1)
  if till > 0 and till <= now then
    redis.call('HDEL', KEYS[1], list[i])
  end
end
local is_there = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1
if not is_there and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  return {1, 0}
end
if not (is_there and known > 0) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
local version = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), known) + 1
redis.call('SET', KEYS[2], string.format('%.0f', version))
return {0, version}
";

/// Allows a subject again. Keys: the list, its version. Arguments: the subject.
///
/// Answers how many were taken out, and the version.
pub const ALLOW: &str = r"
local count = redis.call('HDEL', KEYS[1], ARGV[1])
if count == 0 then
  return {0, tonumber(redis.call('GET', KEYS[2]) or 0)}
end
return {count, redis.call('INCR', KEYS[2])}
";
