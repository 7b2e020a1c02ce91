package global

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// damage is commands that make something else of a key, whose name is %s.
type damage struct {
	name     string
	commands [][]string
	// plausible says that what is then there is as good as what was, but for somebody who
	// remembers: it can't be told from another value.
	plausible bool
}

// oddNumbers are what a number may have become, and some are numbers.
var oddNumbers = []string{
	"", "x", "-1", "0", "7", "1e30", "1099511627776", "9223372036854775808", "1 9223372036854775808 9223372036854775808 65536", "r 9223372036854775808 x",
}

// plausibleNumber tells whether s can be what was meant.
func plausibleNumber(s string) bool { return s == "0" || s == "7" || s == "1099511627776" }

// damagesOf returns what can become of a key.
func damagesOf(t *testing.T, c rueidis.Client, key string) []damage {
	t.Helper()
	do := func(words ...string) rueidis.RedisResult {
		return c.Do(t.Context(), c.B().Arbitrary(words...).Build())
	}
	kind, err := do("TYPE", key).ToString()
	if err != nil {
		t.Fatal(err)
	}
	var all []damage
	add := func(name string, plausible bool, commands ...[]string) {
		all = append(all, damage{name, commands, plausible})
	}
	// Chunks that only the manifest knows to be there are missed; overrides are not.
	chunk := strings.Contains(key, "}0:") || strings.HasPrefix(key, "faasm:c:")
	add("gone", !chunk, []string{"DEL", "%s"})
	for _, other := range [][]string{{"SET", "%s", "x"}, {"HSET", "%s", "x", "y"}, {"RPUSH", "%s", "x"}, {"ZADD", "%s", "1", "x"}} {
		if !strings.HasPrefix(map[string]string{"string": "SET", "hash": "HSET", "list": "RPUSH", "zset": "ZADD"}[kind], other[0]) {
			add("made by "+other[0], false, []string{"DEL", "%s"}, other)
		}
	}
	switch {
	case chunk:
		add("too long", false, []string{"SETRANGE", "%s", str(4 * ChunkBytes), "x"})
		add("empty", true, []string{"SET", "%s", ""}) // short, and so zeroes
	case kind == "string":
		for _, odd := range oddNumbers {
			add(fmt.Sprintf("%q", odd), false, []string{"SET", "%s", odd})
		}
	case kind == "list":
		add("one more", true, []string{"RPUSH", "%s", "x"})
		add("one less", true, []string{"RPOP", "%s"})
	case kind == "zset":
		add("one more", false, []string{"ZADD", "%s", "1", "x"}, []string{"ZADD", "%s", "nx", "0", "\xff"})
	case kind == "hash":
		fields, err := do("HKEYS", key).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range fields {
			add("no "+field, true, []string{"HDEL", "%s", field})
			for _, odd := range oddNumbers {
				// What decides whether there are overrides, and which, is all that is known of them.
				add(fmt.Sprintf("%s is %q", field, odd), plausibleNumber(odd) || field == "o", []string{"HSET", "%s", field, odd})
			}
		}
		for field, value := range map[string]string{"": "", "x": "7", "1": "x", "1e30": "7", "wx": "x", "tx": "x", "t1": "1 1099511627776 1099511627776 65536"} {
			add(fmt.Sprintf("%q beside, %q", field, value), false, []string{"HSET", "%s", field, value})
		}
	}
	return all
}

// damagedOperation is one on the key k, whose value was want. An error must be ErrDamaged
// or one that is allowed.
type damagedOperation struct {
	name  string
	allow []error
	do    func(ctx context.Context, r *Redis, k Key, want []byte, plausible bool) error
}

var damagedOperations = []damagedOperation{
	{"Stat", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.Stat(ctx, k)
		return err
	}},
	{"Read", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, want []byte, plausible bool) error {
		return readsSame(ctx, r, k, 0, want, plausible)
	}},
	{"Read a beginning", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, want []byte, plausible bool) error {
		return readsSame(ctx, r, k, 3, want[3:20], plausible)
	}},
	{"Read an end", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, want []byte, plausible bool) error {
		return readsSame(ctx, r, k, int64(len(want)-20), want[len(want)-20:], plausible)
	}},
	{"Published", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.Published(ctx, k)
		return err
	}},
	{"ReadPublished", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, want []byte, _ bool) error {
		_, _, err := r.ReadPublished(ctx, k, 0, 0, make([]byte, len(want)))
		return err
	}},
	{"List", nil, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.List(ctx, k.Tenant, "", "", 100)
		return err
	}},
	{"Usage", nil, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		u, err := r.Usage(ctx, k.Tenant)
		if err == nil && (u.Bytes < 0 || u.Keys < 0) {
			return fmt.Errorf("usage %+v", u)
		}
		return err
	}},
	{"ReadList", nil, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.ReadList(ctx, k, 0, 10, 100)
		return err
	}},
	{"StatList", nil, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, n, err := r.StatList(ctx, k)
		if err == nil && n < 0 {
			return fmt.Errorf("%d bytes", n)
		}
		return err
	}},
	{"Write", nil, func(ctx context.Context, r *Redis, k Key, _ []byte, plausible bool) error {
		return writes(ctx, r, k, 5)
	}},
	{"Write many chunks", nil, func(ctx context.Context, r *Redis, k Key, _ []byte, plausible bool) error {
		return writes(ctx, r, k, 2*ChunkBytes+5)
	}},
	{"Write on condition", []error{ErrVersion}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.Write(ctx, k, 0, nil, Condition{IfAbsent: true})
		return err
	}},
	{"Patch", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.Patch(ctx, k, []Range{{3, []byte("x")}}, Condition{})
		return err
	}},
	{"Patch many chunks", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.Patch(ctx, k, []Range{{3, []byte("x")}, {ChunkBytes + 3, []byte("y")}, {2 * ChunkBytes, []byte("z")}}, Condition{})
		return err
	}},
	{"Merge", []error{ErrNotFound, ErrInvalid}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.Merge(ctx, k, 0, Int32, Sum, make([]byte, 4), Condition{})
		return err
	}},
	{"Merge many chunks", []error{ErrNotFound, ErrInvalid}, func(ctx context.Context, r *Redis, k Key, want []byte, _ bool) error {
		_, err := r.Merge(ctx, k, 0, Int32, Sum, make([]byte, len(want)&^3), Condition{})
		return err
	}},
	{"Publish", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.Publish(ctx, k, Condition{})
		return err
	}},
	{"Unpublish", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		info, err := r.Published(ctx, k)
		if err == nil {
			err = r.Unpublish(ctx, k, info.Version)
		}
		return err
	}},
	{"Append", nil, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		_, err := r.Append(ctx, k, []byte("element"))
		return err
	}},
	{"ClearList", nil, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		if err := r.ClearList(ctx, k); err != nil {
			return err
		}
		if left, err := r.ReadList(ctx, k, 0, 10, 100); err != nil || len(left) > 0 {
			return fmt.Errorf("after ClearList there are %q, %v", left, err)
		}
		return nil
	}},
	{"Lock", []error{ErrTimeout, ErrLeaseLost}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		l, err := r.Lock(ctx, k, LockRead)
		if err == nil {
			err = l.Unlock(ctx)
		}
		return err
	}},
	{"Sweep", nil, func(ctx context.Context, r *Redis, _ Key, _ []byte, _ bool) error {
		_, err := r.Sweep(ctx)
		return err
	}},
	{"Delete", []error{ErrNotFound}, func(ctx context.Context, r *Redis, k Key, _ []byte, _ bool) error {
		if err := r.Delete(ctx, k, Condition{}); err != nil {
			return err
		}
		if info, err := r.Stat(ctx, k); !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("after Delete there is %+v, %v", info, err)
		}
		return nil
	}},
}

// readsSame reads bytes that must be want, if anything.
func readsSame(ctx context.Context, r *Redis, k Key, off int64, want []byte, plausible bool) error {
	got := bytes.Repeat([]byte{0xee}, len(want))
	n, _, err := r.Read(ctx, k, off, got)
	if err == nil && !plausible && !bytes.Equal(got[:n], want) {
		return fmt.Errorf("read %d bytes, which are not those of the value", n)
	}
	return err
}

// writes replaces the value. What was written can be read, and be patched.
func writes(ctx context.Context, r *Redis, k Key, n int) error {
	value := pattern(n, 99)
	if _, err := r.Write(ctx, k, int64(n), bytes.NewReader(value), Condition{}); err != nil {
		return err
	}
	for range 2 {
		if err := readsSame(ctx, r, k, 0, value, false); err != nil {
			return fmt.Errorf("after Write: %v", err) // none is allowed
		}
		r.remember(k, nil)
		value[3] = 'x'
		if _, err := r.Patch(ctx, k, []Range{{3, value[3:4]}}, Condition{}); err != nil && !errors.Is(err, ErrDamaged) {
			return fmt.Errorf("patch after Write: %v", err)
		} else if err != nil {
			return nil // what is published may be damaged still
		}
	}
	return nil
}

// copyTenant deletes keys like the first argument, and copies those that are the third and
// further ones, of the tenant "good", to the tenant that is the second.
const copyTenant = `
for _, old in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('UNLINK', old) end
for i = 3, #ARGV do redis.call('COPY', ARGV[i], (string.gsub(ARGV[i], 'good', ARGV[2], 1))) end
return 1`

// allocated returns how many bytes this process has ever allocated.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// Whatever becomes of what is stored, each operation ends soon: it is right, or says that
// the store is damaged.
func TestRedis_damaged(t *testing.T) {
	url := redisURL(t)
	c := rawClient(t, shared.single)
	r := openRedis(t, url, RedisOptions{Lease: time.Minute, Timeout: time.Minute}) // of which no operation takes much
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do := func(commands ...[]string) {
		t.Helper()
		for _, words := range commands {
			must(c.Do(t.Context(), c.B().Arbitrary(words...).Build()).Error())
		}
	}
	for shape, store := range map[string]func(k Key) (value []byte){
		"one chunk": func(k Key) []byte {
			value := pattern(1000, 1)
			write(t, r, k, value)
			return value
		},
		"many chunks": func(k Key) []byte {
			value := pattern(3*ChunkBytes-5, 2)
			write(t, r, k, value)
			return value
		},
		"with all there is": func(k Key) []byte {
			value := pattern(3*ChunkBytes-5, 3)
			write(t, r, k, value)
			for _, off := range []int{2, ChunkBytes + 2} {
				patch(t, r, k, int64(off), []byte("patched"))
				copy(value[off:], "patched")
				_, err := r.Publish(t.Context(), k, Condition{})
				must(err)
			}
			patch(t, r, k, ChunkBytes+20, []byte("again"))
			copy(value[ChunkBytes+20:], "again")
			for _, element := range []string{"first", "second"} {
				_, err := r.Append(t.Context(), k, []byte(element))
				must(err)
			}
			take(t, r, k, LockRead)
			who := prefix(k.Tenant)
			do([]string{"HSET", who + "w:" + k.Name, "w5", "9223372036854775807", "t6", "5 1 100 65536"},
				[]string{"HSET", who + "x:6:" + k.Name, "0", "7"},
				[]string{"HSET", who + "lw:" + k.Name, "dead", "r 1 host"}, []string{"ZADD", who + "lq:" + k.Name, "1", "dead"})
			return value
		},
	} {
		t.Run(shape, func(t *testing.T) {
			good := Key{"good", "k"}
			want := store(good)
			intact := names(t, shared.single, "*good*")
			tenants := 0
			// another makes another tenant with the same contents, and forgets the last.
			another := func() Key {
				tenants++
				k := Key{fmt.Sprint("tenant", tenants), "k"}
				do(append([]string{"EVAL", copyTenant, "0", fmt.Sprintf("faasm:*tenant%d*", tenants-1), k.Tenant}, intact...))
				return k
			}
			for _, name := range intact {
				for _, d := range damagesOf(t, c, name) {
					for _, op := range damagedOperations {
						for _, knows := range []bool{false, true} {
							if knows && !strings.HasPrefix(op.name, "Read") {
								continue
							}
							k := another()
							if knows {
								must(readsSame(t.Context(), r, k, 0, want, false))
							}
							for _, words := range d.commands {
								words = slices.Clone(words)
								words[1] = strings.Replace(name, "good", k.Tenant, 1)
								do(words)
							}
							// Sooner than an exchange that is sent again and again.
							ctx, cancel := context.WithTimeout(t.Context(), r.opts.Timeout*4/5)
							before := allocated()
							err := op.do(ctx, r, k, want, d.plausible)
							if n := allocated() - before; n > 32<<20 {
								t.Errorf("%s %s: %s allocates %d bytes", name, d.name, op.name, n)
							}
							if ctx.Err() != nil {
								t.Errorf("%s %s: %s does not end", name, d.name, op.name)
							}
							cancel()
							if err != nil && !slices.ContainsFunc(append(op.allow, ErrDamaged), func(e error) bool { return errors.Is(err, e) }) {
								t.Errorf("%s %s: %s: %v", name, d.name, op.name, err)
							}
							for d, ok := r.oldest(-1); ok; d, ok = r.oldest(-1) {
								r.collect(t.Context(), d)
							}
						}
					}
				}
			}
			do([]string{"FLUSHALL"})
		})
	}
}

// Sweep goes on behind a key that is damaged, and says so in the end.
func TestRedis_sweepDamaged(t *testing.T) {
	r := openRedis(t, redisURL(t), RedisOptions{})
	ctx := t.Context()
	set := func(words ...string) {
		t.Helper()
		if err := r.do(ctx, r.client.B().Arbitrary(words...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	const damaged = 20
	for i := range damaged {
		k := Key{"t", fmt.Sprint("damaged ", i)}
		write(t, r, k, pattern(2*ChunkBytes, 1))
		set("HSET", prefix("t")+"v:"+k.Name, "s", "x")
	}
	before := names(t, shared.single, "*")
	dead := chunkName(Key{"t", "dead"}, 1, 1, 1)
	set("SET", dead, "x")
	swept, err := r.Sweep(ctx)
	if !errors.Is(err, ErrDamaged) || swept.Chunks != 1 {
		t.Errorf("sweep: %+v, %v; want one chunk, ErrDamaged", swept, err)
	}
	if after := names(t, shared.single, "*"); !slices.Equal(after, before) {
		t.Errorf("after the sweep there are %q, want %q", after, before)
	}
}

// A value that can't be read can be replaced and deleted, on conditions that hold.
func TestRedis_replaceDamaged(t *testing.T) {
	r := openRedis(t, redisURL(t), RedisOptions{})
	ctx := t.Context()
	value := pattern(2*ChunkBytes, 1)
	set := func(name, field string) {
		t.Helper()
		if err := r.do(ctx, r.client.B().Hset().Key(prefix("t")+name).FieldValue().FieldValue(field, "x").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	for _, field := range []string{"v", "g", "n", "s", "c"} {
		damage := func() {
			write(t, r, aKey, value)
			patch(t, r, aKey, ChunkBytes, []byte("x")) // an override, which must not outlive it
			set("v:k", field)
		}
		for _, n := range []int{10, 2 * ChunkBytes} {
			damage()
			if _, err := r.Write(ctx, aKey, 0, nil, Condition{IfAbsent: true}); !errors.Is(err, ErrVersion) {
				t.Errorf("write where there must be no value, with damaged %s: %v, want ErrVersion", field, err)
			}
			write(t, r, aKey, value[:n])
			got, _ := read(t, r, aKey)
			diffBytes(t, "after damaged "+field, got, value[:n])
		}
		damage()
		if err := r.Delete(ctx, aKey, Condition{IfVersion: 5}); !errors.Is(err, ErrVersion) {
			t.Errorf("delete of another version, with damaged %s: %v, want ErrVersion", field, err)
		}
		if err := r.Delete(ctx, aKey, Condition{}); err != nil {
			t.Errorf("delete with damaged %s: %v", field, err)
		}
		if list, err := r.List(ctx, "t", "", "", 10); err != nil || len(list) > 0 {
			t.Errorf("after delete with damaged %s there are %+v, %v", field, list, err)
		}
	}

	info := write(t, r, aKey, value)
	if _, err := r.Publish(ctx, aKey, Condition{}); err != nil {
		t.Fatal(err)
	}
	set("v:k", "p"+str(info.Version))
	if _, err := r.Published(ctx, aKey); !errors.Is(err, ErrDamaged) {
		t.Errorf("a published version that is damaged: %v, want ErrDamaged", err)
	}
	if err := r.Delete(ctx, aKey, Condition{}); err != nil {
		t.Errorf("delete with a published version that is damaged: %v", err)
	}

	if err := r.do(ctx, r.client.B().Set().Key(prefix("t")+"bytes").Value("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	write(t, r, aKey, value) // not half
	if _, err := r.Usage(ctx, "t"); !errors.Is(err, ErrDamaged) {
		t.Errorf("usage that is damaged: %v, want ErrDamaged", err)
	}
}

// Who waits for a lock whose lease ends in centuries asks no more often than for another.
func TestRedis_Lock_endlessLease(t *testing.T) {
	r := openRedis(t, redisURL(t), RedisOptions{})
	const expiry = "11800000000000000" // so many microseconds from now are no time.Duration
	set := r.client.B().Hset().Key(prefix("t")+"l:k").FieldValue().FieldValue("5", "w "+expiry+" somebody").Build()
	if err := r.do(t.Context(), set).Error(); err != nil {
		t.Fatal(err)
	}
	asked := func() (n int) {
		t.Helper()
		stats, err := r.do(t.Context(), r.client.B().Info().Section("commandstats").Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		if _, after, ok := strings.Cut(stats, "cmdstat_evalsha:calls="); ok {
			fmt.Sscanf(after, "%d", &n)
		}
		return n
	}
	before := asked()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := r.Lock(ctx, aKey, LockRead); !errors.Is(err, ErrTimeout) {
		t.Errorf("lock: %v, want ErrTimeout", err)
	}
	// It asks once, anew when it listens to the channel, by EVAL if the script is not known, and leaves.
	if n := asked() - before; n > 8 {
		t.Errorf("a lock asks %d times", n)
	}
}
