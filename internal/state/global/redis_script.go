package global

import (
	"crypto/sha1"
	"encoding/hex"
	"regexp"
	"slices"
)

// The keys in Redis. P is "faasm:{TENANT}", with the tenant as in a URL's query, so that
// no brace is in it and all these are in the tenant's slot; NAME is the name as it is.
//
//	P clock        the last tick: microseconds, or two more than the last
//	P bytes        the tenant's usage
//	P names        sorted set of the names that have a value or a list
//	P v:NAME       hash: v version, s size, c chunk size, g generation, n chunks of it;
//	               o 0 if all chunks are the generation's; lb bytes of the list; pv the published versions, and for each
//	               pVERSION "g n s c"
//	P o:NAME       hash, index → number: chunks that are not the generation's
//	P q:V:NAME     the same of the published version V
//	P w:NAME       hash: wNUMBER → when the registration of a writer runs out;
//	               tNUMBER → "g n s c" of what has been dropped
//	P x:N:NAME     the overrides (o or q) of what has been dropped under tN
//	P 0:N:NAME     chunk 0 with the number N
//	P n:T-ID       chunk 0 of a value that is about to be committed, since T, in seconds
//	P a:NAME       the list
//	P f:NAME       the last token of the lock
//	P l:NAME       hash: token → "mode expiry who" of who holds the lock
//	P lq:NAME      sorted set of who waits for it, by arrival
//	P lw:NAME      hash: who waits → "mode expiry host"
//
// and, wherever the hash tag puts it, which differs by chunk:
//
//	faasm:c:{G.I}N:TENANT:NAME   chunk I of generation G with the number N
//
// A chunk is known by its index and number: the generation's if it was stored by a
// Write, else that of the patch that made it. It is never changed. A chunk that is short
// has zeroes after it.

// scriptParts are what scripts share, in order, and the name that each defines. Redis makes
// anew what a script has each time that it runs, so one has only those parts that it mentions,
// or another part that it has: that halved what a commit takes.
var scriptParts = []struct{ name, text string }{
	{"V", `local V = P..'v:'..name`},
	{"O", `local O = P..'o:'..name`},
	{"W", `local W = P..'w:'..name`},
	{"F", `local F = P..'f:'..name`},
	{"str", `local function str(n) return string.format('%d', n) end`},
	{"now", `
local function now()
  local t = call('TIME')
  return t[1] * 1000000 + t[2]
end`},
	// tick is a number that this tenant has not had before, and beyond m's version. It is
	// even, or it could be one that version has given out.
	{"tick", `
local function tick(m)
  local n = now()
  n = n + n % 2
  local last = tonumber(call('SET', P..'clock', str(n), 'GET') or '0')
  if not last or last > 2^53 then last = 0 end -- it was damaged, and is no more
  if m then last = math.max(last, m.v) end
  if n <= last then
    n = last + 2 - last % 2
    call('SET', P..'clock', str(n))
  end
  return n
end`},
	// version is a number beyond m's version, which is odd and so no tick. Without m it is
	// one: what the key had before it was deleted is not known but to the clock.
	{"version", `
local function version(m)
  if not m then return tick() end
  local n = math.max(now(), m.v + 1)
  return n + 1 - n % 2
end`},
	// count comes after the change that it counts, which a damaged usage must not cut in half:
	// it stays damaged, and whoever asks for it is told so.
	{"count", `
local function count(bytes)
  if bytes ~= 0 then redis.pcall('INCRBY', P..'bytes', str(bytes)) end
end`},
	// manifest checks what every other part relies on. What it raises is ErrDamaged.
	{"manifest", `
local function manifest(v, g, n, s, c)
  if not string.find(table.concat({v, g, n, s, c}, ' '), '^%d+ %d+ %d+ %d+ %d+$') then error('damaged') end
  local m = {v = v, g = g, n = tonumber(n), s = tonumber(s), c = tonumber(c)}
  v, g = tonumber(v), tonumber(g)
  if v < 1 or v > 2^53 or g < 1 or g > 2^53 or m.s > ` + str(int64(ValueBytesMax)) + `
    or m.c < ` + str(int64(ChunkBytes)) + ` or m.c > ` + str(int64(chunkBytesMax)) + ` or m.n >= m.s / m.c + 1 then error('damaged') end
  return m
end`},
	{"meta", `
local function meta()
  local f = call('HMGET', V, 'v', 'g', 'n', 's', 'c', 'pv', 'o')
  if not f[1] then return nil end
  local m = manifest(f[1], f[2], f[3], f[4], f[5])
  m.pv, m.o = f[6], f[7]
  return m
end`},
	// soft is meta for who does away with the value: of a damaged one it returns the version
	// alone. What that had is left to Sweep, and in the usage.
	{"soft", `
local function soft()
  local readable, m = pcall(meta)
  if readable then return m end
  return {v = call('HGET', V, 'v')}
end`},
	{"check", `
local function check(m, v, absent, fence)
  if fence ~= '0' and call('GET', F) ~= fence then return {'FENCED'} end
  if absent == '1' and m then return {'VERSION', m.v} end
  if v ~= '0' and not (m and m.v == v) then return {'VERSION', m and m.v or '0'} end
end`},
	{"published", `
local function published(m)
  local out = {}
  for v in string.gmatch(m and m.pv or '', '%d+') do
    out[#out + 1] = manifest(v, string.match(call('HGET', V, 'p'..v) or '', '^(%d+) (%d+) (%d+) (%d+)$'))
  end
  return out
end`},
	{"number", `
local function number(m, overrides, i)
  local id = m.o ~= '0' and call('HGET', overrides, str(i))
  if id then return id end
  if i < m.n then return m.g end
  return '0'
end`},
	{"shared", `
local function shared(pubs, i, id)
  for _, p in ipairs(pubs) do
    if number(p, P..'q:'..p.v..':'..name, i) == id then return true end
  end
  return false
end`},
	{"drop", `
local function drop(m, overrides)
  local id = str(tick(m))
  call('HSET', W, 't'..id, m.g..' '..str(m.n)..' '..str(m.s)..' '..str(m.c))
  if call('EXISTS', overrides) == 1 then call('RENAME', overrides, P..'x:'..id..':'..name) end
  return id
end`},
	{"list", `
local function list(out, overrides, first, last)
  local n = call('HLEN', overrides)
  if n <= 1024 then
    out[#out + 1] = 'A'
    if n > 0 then
      for _, x in ipairs(call('HGETALL', overrides)) do out[#out + 1] = x end
    end
    return out
  end
  out[#out + 1] = 'R'
  for i = first, last - 1, 1000 do
    local fields = {}
    for j = i, math.min(i + 999, last - 1) do fields[#fields + 1] = str(j) end
    for _, id in ipairs(call('HMGET', overrides, unpack(fields))) do out[#out + 1] = id or '' end
  end
  return out
end`},
	{"forget", `
local function forget()
  if call('HLEN', V) == 0 then call('ZREM', P..'names', name) end
end`},
}

// luaScript is a script and what Redis knows it by.
type luaScript struct {
	text, sha string
}

func newScript(text string) *luaScript {
	sum := sha1.Sum([]byte(text))
	return &luaScript{text, hex.EncodeToString(sum[:])}
}

// script makes a script of a body and the parts that it needs. Its key is P, its first
// argument NAME.
func script(body string) *luaScript { return scriptAfter("", body) }

// scriptAfter is script for a body before which something is tried that needs no parts.
func scriptAfter(first, body string) *luaScript {
	for _, part := range slices.Backward(scriptParts) {
		if regexp.MustCompile(`\b` + part.name + `\b`).MatchString(body) {
			body = part.text + "\n" + body
		}
	}
	return newScript("local P, name, call = KEYS[1], ARGV[1], redis.call\n" + first + body)
}

// usualCommit is scriptCommit where a value of one chunk takes the place of another, without
// conditions, and nothing else needs the old one. It does the same in half of the time, for
// all that the parts prepare for can't be.
const usualCommit = `
if ARGV[2] == '0' and ARGV[3] == '0' and ARGV[4] == '0' and ARGV[5] == '0' and ARGV[6] == '1' then
  local V = P..'v:'..name
  local m = call('HMGET', V, 'v', 'g', 'n', 's', 'pv', 'o')
  local v, size = tonumber(m[1] or ''), tonumber(m[4] or '')
  if v and v < 2^53 and size and m[2] and m[3] == '1' and not m[5] and m[6] == '0' then
    local t = call('TIME')
    local n = math.max(t[1] * 1000000 + t[2], v + 1)
    v = string.format('%d', n + 1 - n % 2)
    if redis.pcall('RENAME', P..'n:'..ARGV[9], P..'0:'..v..':'..name).err then return {'ABORTED'} end
    call('UNLINK', P..'0:'..m[2]..':'..name)
    call('HSET', V, 'v', v, 'g', v, 's', ARGV[7], 'c', ARGV[8])
    if size ~= tonumber(ARGV[7]) then redis.pcall('INCRBY', P..'bytes', string.format('%d', ARGV[7] - size)) end
    return {'OK', v, v, '0'}
  end
end
`

var (
	// view: first, last, off, len → v g n s c, what chunk 0 has at off, overrides.
	// It returns chunk 0 with the manifest, so that no writer comes between them.
	scriptView = script(`
local m = meta()
if not m then return {'ABSENT'} end
local first, last, off, len = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local data, id = '', '0'
if len > 0 then
  id = number(m, O, 0)
  if id ~= '0' then
    local key = P..'0:'..id..':'..name
    data = call('GETRANGE', key, off, off + len - 1)
    if data == '' and call('EXISTS', key) == 0 then return {'LOST'} end
  end
end
return list({'OK', m.v, m.g, str(m.n), str(m.s), str(m.c), id, data}, O, first, last)`)

	// publishedView: first, last, version → the same of a published version.
	scriptPublishedView = script(`
local m
for _, p in ipairs(published(meta())) do
  if ARGV[4] == '0' or ARGV[4] == p.v then m = p end
end
if not m then return {'ABSENT'} end
local out = {'OK', m.v, m.g, str(m.n), str(m.s), str(m.c), '0', ''}
return list(out, P..'q:'..m.v..':'..name, tonumber(ARGV[2]), tonumber(ARGV[3]))`)

	// begin: version, absent, fence, µs → a generation, registered.
	scriptBegin = script(`
local no = check(soft(), ARGV[2], ARGV[3], ARGV[4])
if no then return no end
local g = tick()
call('HSET', W, 'w'..str(g), str(now() + ARGV[5]))
return {'OK', str(g)}`)

	// renew: number, µs
	scriptRenew = script(`
if call('HEXISTS', W, 'w'..ARGV[2]) == 0 then return {'ABORTED'} end
call('HSET', W, 'w'..ARGV[2], str(now() + ARGV[3]))
return {'OK'}`)

	// abort: number → 1 if it was registered, and so has not been committed
	scriptAbort = script(`return {'OK', str(call('HDEL', W, 'w'..ARGV[2]))}`)

	// commit: version, absent, fence, generation or 0, chunks, size, chunk size, the ID
	// that chunk 0 is under → version, generation, what was dropped. Chunk 0 comes as a
	// command of its own, which costs Redis much less than an argument of a script.
	scriptCommit = scriptAfter(usualCommit, `
local m = soft()
local new = P..'n:'..ARGV[9]
local no = check(m, ARGV[2], ARGV[3], ARGV[4])
local g = ARGV[5]
if not no and g ~= '0' and call('HDEL', W, 'w'..g) == 0 then no = {'ABORTED'} end
if no then
  call('UNLINK', new)
  return no
end
if m and not m.n then m = nil end
local v = str(version(m))
if g == '0' then g = v end
if ARGV[6] ~= '0' and redis.pcall('RENAME', new, P..'0:'..g..':'..name).err then return {'ABORTED'} end
local dropped = '0'
if m and m.s <= m.c then
  local id = number(m, O, 0)
  if m.pv and shared(published(m), 0, id) then id = '0' end
  if m.o ~= '0' then call('UNLINK', O) end
  call('UNLINK', P..'0:'..id..':'..name)
elseif m then
  dropped = drop(m, O)
else
  call('UNLINK', O) -- of what was damaged
  call('ZADD', P..'names', 0, name)
end
call('HSET', V, 'v', v, 'g', g, 'n', ARGV[6], 's', ARGV[7], 'c', ARGV[8], 'o', '0')
count(ARGV[7] - (m and m.s or 0))
return {'OK', v, g, dropped}`)

	// patch0: version, fence, chunk size, the number chunk 0 must have or '', then offset
	// and data of each piece, in chunk 0 → v g n s, its new number
	scriptPatch0 = script(`
local m = meta()
local no = check(m, ARGV[2], '0', ARGV[3])
if no and (m or no[1] == 'FENCED') then return no end
if not m then return {'ABSENT'} end
if str(m.c) ~= ARGV[4] then return {'CHUNK', str(m.c)} end
local old = number(m, O, 0)
if ARGV[5] ~= '' and ARGV[5] ~= old then return {'CONFLICT'} end
local id = str(tick(m))
local from, to = P..'0:'..old..':'..name, P..'0:'..id..':'..name
if old ~= '0' then
  if call('EXISTS', from) == 0 then return {'LOST'} end
  if shared(published(m), 0, old) then call('COPY', from, to) else call('RENAME', from, to) end
end
local s = m.s
for i = 6, #ARGV, 2 do
  call('SETRANGE', to, ARGV[i], ARGV[i + 1])
  s = math.max(s, ARGV[i] + #ARGV[i + 1])
end
call('HSET', O, '0', id)
call('HSET', V, 'v', id, 's', str(s), 'o', '1')
count(s - m.s)
return {'OK', id, m.g, str(m.n), str(s), id}`)

	// patchBegin: version, fence, chunk size, µs, indices → a number, registered;
	// g s and each chunk's number
	scriptPatchBegin = script(`
local m = meta()
local no = check(m, ARGV[2], '0', ARGV[3])
if no and (m or no[1] == 'FENCED') then return no end
if not m then return {'ABSENT'} end
if str(m.c) ~= ARGV[4] then return {'CHUNK', str(m.c)} end
local id = str(tick())
call('HSET', W, 'w'..id, str(now() + ARGV[5]))
local out = {'OK', id, m.g, str(m.s)}
for i = 1, #ARGV[6], 8 do
  out[#out + 1] = number(m, O, struct.unpack('<I8', ARGV[6], i))
end
return out`)

	// patchCommit: version, fence, generation, number, then index, old number and end of
	// each chunk → v n s, the position of each chunk that did not have the old number,
	// and after a 0 those whose old one nobody needs now
	scriptPatchCommit = script(`
local m = meta()
local no = check(m, ARGV[2], '0', ARGV[3])
if no and (m or no[1] == 'FENCED') then return no end
local id, all = ARGV[5], ARGV[6]
if call('HDEL', W, 'w'..id) == 0 then return {'ABORTED'} end
if not m then return {'ABSENT'} end
if m.g ~= ARGV[4] then return {'GONE'} end
local pubs, s, applied, conflicts, free = published(m), m.s, false, {}, {}
for at = 1, #all, 24 do
  local i, old, reach = struct.unpack('<I8I8I8', all, at)
  local pos = str((at - 1) / 24 + 1)
  old = str(old)
  if number(m, O, i) ~= old then
    conflicts[#conflicts + 1] = pos
  else
    applied = true
    call('HSET', O, str(i), id)
    s = math.max(s, i * m.c + reach)
    if old ~= '0' and not shared(pubs, i, old) then free[#free + 1] = pos end
  end
end
local v = m.v
if applied then
  v = str(tick(m))
  call('HSET', V, 'v', v, 's', str(s), 'o', '1')
  count(s - m.s)
end
local out = {'OK', v, str(m.n), str(s)}
for _, p in ipairs(conflicts) do out[#out + 1] = p end
out[#out + 1] = '0'
for _, p in ipairs(free) do out[#out + 1] = p end
return out`)

	// delete: version, fence → what was dropped
	scriptDelete = script(`
local m = soft()
local there = call('EXISTS', V) == 1
local no = check(m, ARGV[2], '0', ARGV[3])
if no and (there or no[1] == 'FENCED') then return no end
if not there then return {'ABSENT'} end
local out = {'OK'}
local bytes = tonumber(call('HGET', V, 'lb') or '0') or 0
local readable, pubs = pcall(published, m)
for _, p in ipairs(readable and pubs or {}) do
  bytes = bytes + p.s
  out[#out + 1] = drop(p, P..'q:'..p.v..':'..name)
end
if m and m.n then
  bytes = bytes + m.s
  out[#out + 1] = drop(m, O)
end
call('UNLINK', V, O, P..'a:'..name)
count(-bytes)
forget()
return out`)

	// publish: version, fence → v s c, what was dropped
	scriptPublish = script(`
local m = meta()
local no = check(m, ARGV[2], '0', ARGV[3])
if no and (m or no[1] == 'FENCED') then return no end
if not m then return {'ABSENT'} end
local out = {'OK', m.v, str(m.s), str(m.c)}
local pubs = published(m)
for _, p in ipairs(pubs) do
  if p.v == m.v then return out end
end
local bytes = m.s
local oldest
local versions = {}
if #pubs >= ` + publishedKept + ` then oldest = table.remove(pubs, 1) end
for _, p in ipairs(pubs) do versions[#versions + 1] = p.v end
versions[#versions + 1] = m.v
call('HSET', V, 'pv', table.concat(versions, ' '), 'p'..m.v, m.g..' '..str(m.n)..' '..str(m.s)..' '..str(m.c))
if call('EXISTS', O) == 1 then call('COPY', O, P..'q:'..m.v..':'..name) end
if oldest then
  call('HDEL', V, 'p'..oldest.v)
  out[#out + 1] = drop(oldest, P..'q:'..oldest.v..':'..name)
  bytes = bytes - oldest.s
end
count(bytes)
return out`)

	// unpublish: version → what was dropped
	scriptUnpublish = script(`
local gone
local versions = {}
for _, p in ipairs(published(meta())) do
  if p.v == ARGV[2] then gone = p else versions[#versions + 1] = p.v end
end
if not gone then return {'ABSENT'} end
call('HDEL', V, 'p'..gone.v)
if #versions == 0 then call('HDEL', V, 'pv') else call('HSET', V, 'pv', table.concat(versions, ' ')) end
count(-gone.s)
return {'OK', drop(gone, P..'q:'..gone.v..':'..name)}`)

	// dropped: number, first, count, cursor → first and cursor to go on with, or '' at the
	// end; then index, generation and number of each chunk of what was dropped that
	// nobody needs. It goes through the generation's chunks, then through the other
	// overrides.
	scriptDropped = script(`
local g, n, s, c = string.match(call('HGET', W, 't'..ARGV[2]) or '', '^(%d+) (%d+) (%d+) (%d+)$')
local readable, d = pcall(manifest, '1', g, n, s, c)
if not readable then
  call('HDEL', W, 't'..ARGV[2])
  return {'ABSENT'}
end
local overrides, m = P..'x:'..ARGV[2]..':'..name, meta()
local pubs = published(m)
local out = {'OK', '', '0'}
local function look(i)
  local id = number(d, overrides, i)
  if id ~= '0' and not shared(pubs, i, id) and not (m and number(m, O, i) == id) then
    out[#out + 1] = str(i)
    out[#out + 1] = g
    out[#out + 1] = id
  end
end
local first = tonumber(ARGV[3])
if first < d.n then
  local last = math.min(first + ARGV[4], d.n)
  for i = first, last - 1 do look(i) end
  out[2] = str(last)
else
  local page = call('HSCAN', overrides, ARGV[5], 'COUNT', ARGV[4])
  for i = 1, #page[2], 2 do
    local index = tonumber(page[2][i])
    if index >= d.n then look(index) end
  end
  if page[1] ~= '0' then out[2], out[3] = str(first), page[1] end
end
return out`)

	// droppedDone: number
	scriptDroppedDone = script(`
call('HDEL', W, 't'..ARGV[2])
call('UNLINK', P..'x:'..ARGV[2]..':'..name)
return {'OK'}`)

	// sweep: µs of grace, then index and number of chunks → how many registrations have
	// run out; the position of each chunk that nobody needs; after a 0, what was dropped
	// so long ago that whoever was to delete it will not.
	scriptSweep = script(`
local at, expired, busy, late = now(), 0, {}, {}
local fields = call('HGETALL', W)
for i = 1, #fields, 2 do
  local kind, id = string.sub(fields[i], 1, 1), string.sub(fields[i], 2)
  if kind == 't' then
    if (tonumber(id) or 0) + ARGV[2] < at then late[#late + 1] = id end
  elseif (tonumber(fields[i + 1]) or 0) < at then
    call('HDEL', W, fields[i])
    expired = expired + 1
  else
    busy[id] = true
  end
end
local m, out = meta(), {}
local pubs = published(m)
for pos = 3, #ARGV, 2 do
  local i, id = tonumber(ARGV[pos]), ARGV[pos + 1]
  if not busy[id] and not (m and number(m, O, i) == id) and not shared(pubs, i, id) then
    out[#out + 1] = str((pos - 1) / 2)
  end
end
table.insert(out, 1, str(expired))
table.insert(out, 1, 'OK')
out[#out + 1] = '0'
for _, id in ipairs(late) do out[#out + 1] = id end
return out`)

	// append: element → its index
	scriptAppend = script(`
local n = call('LLEN', P..'a:'..name)
if call('EXISTS', V) == 0 then call('ZADD', P..'names', 0, name) end
call('HINCRBY', V, 'lb', #ARGV[2])
call('RPUSH', P..'a:'..name, ARGV[2])
count(#ARGV[2])
return {'OK', str(n)}`)

	// readList: first, n, bytes → elements
	scriptReadList = script(`
local A, first, left, bytes = P..'a:'..name, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local out, total, page = {'OK'}, 0, 1
while left > 0 do
  local got = call('LRANGE', A, str(first), str(first + math.min(page, left) - 1))
  if #got == 0 then break end
  for _, element in ipairs(got) do
    total = total + #element
    if #out > 1 and total > bytes then return out end
    out[#out + 1] = element
  end
  first, left, page = first + #got, left - #got, math.min(page * 2, 64)
end
return out`)

	scriptStatList = script(`
return {'OK', str(call('LLEN', P..'a:'..name)), call('HGET', V, 'lb') or '0'}`)

	scriptClearList = script(`
local bytes = call('HGET', V, 'lb')
if call('UNLINK', P..'a:'..name) == 0 and not bytes then return {'OK'} end
call('HDEL', V, 'lb')
count(-(tonumber(bytes) or 0))
forget()
return {'OK'}`)

	// names: prefix, after, limit → for each key its name, v s c, elements, bytes, pv.
	// The name argument is not used.
	scriptNames = script(`
local prefix, after = ARGV[2], ARGV[3]
local from = '['..prefix
if after >= prefix then from = '('..after end
local out = {'OK'}
for _, n in ipairs(call('ZRANGEBYLEX', P..'names', from, '+', 'LIMIT', 0, ARGV[4])) do
  if string.sub(n, 1, #prefix) ~= prefix then break end
  local m = call('HMGET', P..'v:'..n, 'v', 's', 'c', 'lb', 'pv')
  out[#out + 1] = n
  for i = 1, 3 do out[#out + 1] = m[i] or '0' end
  out[#out + 1] = m[4] and str(call('LLEN', P..'a:'..n)) or '0'
  out[#out + 1] = m[4] or '0'
  out[#out + 1] = m[5] or ''
end
return out`)

	scriptUsage = script(`
return {'OK', call('GET', P..'bytes') or '0', str(call('ZCARD', P..'names'))}`)
)

// lockHead is what scripts about locks share. Who is at the head of the queue and could
// have the lock is told so, on the channel of its host; it then asks again.
const lockHead = `
local L, LQ, LW = P..'l:'..name, P..'lq:'..name, P..'lw:'..name
local at = now()
local function parse(s) return string.match(s or '', '(%a) (%d+) ?(.*)') end
local function holders()
  local readers, writer, first = 0, false, nil
  local all = call('HGETALL', L)
  for i = 1, #all, 2 do
    local mode, expiry = parse(all[i + 1])
    expiry = tonumber(expiry)
    if expiry <= at then
      call('HDEL', L, all[i])
    else
      if mode == 'w' then writer = true else readers = readers + 1 end
      if not first or expiry < first then first = expiry end
    end
  end
  return readers, writer, first
end
local function wake()
  local readers, writer = holders()
  if writer then return end
  for _, who in ipairs(call('ZRANGE', LQ, 0, -1)) do
    local mode, expiry, host = parse(call('HGET', LW, who))
    if not mode or tonumber(expiry) <= at then
      call('ZREM', LQ, who)
      call('HDEL', LW, who)
    elseif mode == 'w' then
      if readers == 0 then call('PUBLISH', host, who) end
      return
    else
      readers = readers + 1
      call('PUBLISH', host, who)
    end
  end
end
`

func lockScript(body string) *luaScript { return script(lockHead + body) }

var (
	// lock: who, mode, host, lease µs, wait µs → OK and a token, or WAIT and the µs until
	// a lease or a wait ahead runs out
	scriptLock = lockScript(`
local who, mode, lease, wait = ARGV[2], ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
if not call('ZSCORE', LQ, who) then call('ZADD', LQ, str(tick()), who) end
call('HSET', LW, who, mode..' '..str(at + wait)..' '..ARGV[4])
local readers, writer, first = holders()
local blocked = writer or mode == 'w' and readers > 0
for _, other in ipairs(call('ZRANGE', LQ, 0, -1)) do
  if other == who then break end
  local m, expiry = parse(call('HGET', LW, other))
  expiry = tonumber(expiry)
  if not m or expiry <= at then
    call('ZREM', LQ, other)
    call('HDEL', LW, other)
  else
    if mode == 'w' or m == 'w' then blocked = true end
    if not first or expiry < first then first = expiry end
  end
end
for _, key in ipairs({L, LQ, LW}) do call('PEXPIRE', key, 86400000) end
if blocked then return {'WAIT', str((first or at + wait) - at)} end
call('ZREM', LQ, who)
call('HDEL', LW, who)
local token = str(tick())
call('HSET', L, token, mode..' '..str(at + lease)..' '..who)
call('PEXPIRE', L, 86400000)
call('SET', F, token, 'EX', 604800)
return {'OK', token}`)

	// leave: who. It may have been given the lock without having heard of it.
	scriptLeave = lockScript(`
call('ZREM', LQ, ARGV[2])
call('HDEL', LW, ARGV[2])
local all = call('HGETALL', L)
for i = 1, #all, 2 do
  local _, _, who = parse(all[i + 1])
  if who == ARGV[2] then call('HDEL', L, all[i]) end
end
wake()
return {'OK'}`)

	// renewLease: token, lease µs. One that has run out can be renewed while nobody else
	// had the lock, for its token is the last still.
	scriptRenewLease = lockScript(`
local mode, _, who = parse(call('HGET', L, ARGV[2]))
if not mode then return {'ABSENT'} end
call('HSET', L, ARGV[2], mode..' '..str(at + ARGV[3])..' '..who)
call('PEXPIRE', L, 86400000)
if call('GET', F) == ARGV[2] then call('EXPIRE', F, 604800) end
return {'OK'}`)

	// unlock: token
	scriptUnlock = lockScript(`
local held = call('HDEL', L, ARGV[2])
if call('GET', F) == ARGV[2] then call('DEL', F) end
wake()
if held == 0 then return {'ABSENT'} end
return {'OK'}`)
)

// copyChunk makes the chunk KEYS[2] of KEYS[1], or of nothing if they are the same, and
// puts pieces into it: offset, data. It returns 0 if there is no KEYS[1].
var copyChunk = newScript(`
if KEYS[1] == KEYS[2] then
  redis.call('DEL', KEYS[2])
elseif redis.call('COPY', KEYS[1], KEYS[2], 'REPLACE') == 0 then
  return 0
end
for i = 1, #ARGV, 2 do redis.call('SETRANGE', KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1`)

// publishedKept is PublishedKept in a script.
const publishedKept = "2"
