package state

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/internal/state/global"
)

func TestSession_lists(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		a, b := session(t, tierOver(t, Options{Store: open(t)}), "t"), session(t, tierOver(t, Options{Store: open(t)}), "t")
		for name, err := range map[string]error{
			"no name":        a.Append("", nil),
			"clear, no name": a.ClearList(""),
			"large element":  a.Append("k", make([]byte, global.ElementBytesMax+1)),
			"negative index": func() error {
				_, err := a.ReadList("k", -1, 1, 1)
				return err
			}(),
		} {
			if !errors.Is(err, global.ErrInvalid) {
				t.Errorf("%s: %v, want ErrInvalid", name, err)
			}
		}
		if err := errors.Join(a.Append("k", []byte("one")), b.Append("k", nil), a.Append("k", []byte("three"))); err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct {
			first    int64
			n        int
			bytesMax int64
			want     string
		}{
			{3, 9, 99, "[]"}, {0, 0, 99, "[]"}, {0, 9, 99, "[one  three]"}, {0, 9, 0, "[one]"}, {0, 9, 3, "[one ]"}, {1, 1, 99, "[]"}, {2, 9, 1, "[three]"},
		} {
			got, err := b.ReadList("k", row.first, row.n, row.bytesMax)
			if err != nil || fmt.Sprintf("%s", got) != row.want {
				t.Errorf("%d elements from %d of %d bytes: %s, %v, want %s", row.n, row.first, row.bytesMax, got, err, row.want)
			}
		}
		if n, bytes, err := b.StatList("k"); n != 3 || bytes != 8 || err != nil {
			t.Errorf("%d elements of %d bytes, %v", n, bytes, err)
		}
		// Another tenant's list of that name is another.
		if n, _, err := session(t, a.tier, "t2").StatList("k"); n != 0 || err != nil {
			t.Errorf("another tenant sees %d elements, %v", n, err)
		}
		// The list is no part of the value.
		if err := b.Set("k", []byte("value")); err != nil {
			t.Fatal(err)
		}
		if n, _, err := b.StatList("k"); n != 3 || err != nil {
			t.Errorf("%d elements beside a value, %v", n, err)
		}
		if err := errors.Join(b.ClearList("k"), b.ClearList("k")); err != nil {
			t.Fatal(err)
		}
		if got, err := a.ReadList("k", 0, 9, 99); len(got) != 0 || err != nil {
			t.Errorf("after ClearList: %s, %v", got, err)
		}
	})
}

func TestTier_quota(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		tier := tierOver(t, Options{Store: open(t), TenantBytesMax: 100})
		s := session(t, tier, "t")
		key := global.Key{Tenant: "t", Name: "k"}
		put := func(size int64) error {
			_, err := tier.Put(t.Context(), key, size, nil, global.Condition{})
			return err
		}
		if err := put(101); !errors.Is(err, ErrQuota) {
			t.Errorf("put beyond the quota: %v", err)
		}
		if _, err := tier.Stat(t.Context(), key); !errors.Is(err, global.ErrNotFound) {
			t.Errorf("what was refused is there: %v", err)
		}
		if err := errors.Join(put(100), put(90), put(100)); err != nil {
			t.Errorf("put within the quota: %v", err)
		}
		if err := s.Append("l", []byte("x")); !errors.Is(err, ErrQuota) {
			t.Errorf("append beyond the quota: %v", err)
		}
		// Other tenants have their own, and who is over it can get below.
		if err := session(t, tier, "t2").Append("l", make([]byte, 100)); err != nil {
			t.Errorf("another tenant's append: %v", err)
		}
		if err := errors.Join(put(60), s.Append("l", make([]byte, 40))); err != nil {
			t.Errorf("after a smaller value: %v", err)
		}
		if err := put(61); !errors.Is(err, ErrQuota) {
			t.Errorf("put beyond what the list leaves: %v", err)
		}
		// A push counts as well.
		if err := s.Set("pushed", []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := s.Push("pushed"); !errors.Is(err, ErrQuota) {
			t.Errorf("push beyond the quota: %v", err)
		}
		if err := errors.Join(s.ClearList("l"), s.Push("pushed")); err != nil {
			t.Errorf("push within the quota: %v", err)
		}
		used, err := tier.Usage(t.Context(), "t")
		if want := (global.Usage{Bytes: 61, Keys: 2}); err != nil || used != want {
			t.Errorf("usage %+v, %v, want %+v", used, err, want)
		}
	})
}

// What people put is what the Faaslets of this host have from then on; those of another
// host when they pull.
func TestTier_people(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		tier, other := tierOver(t, Options{Store: open(t)}), tierOver(t, Options{Store: open(t)})
		s, far := session(t, tier, "t"), session(t, other, "t")
		key := global.Key{Tenant: "t", Name: "k"}
		content := func(s *Session) string {
			t.Helper()
			size, err := s.Size("k")
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, size)
			if _, err := s.ReadAt("k", 0, buf); err != nil {
				t.Fatal(err)
			}
			return string(buf)
		}
		put := func(text string, c global.Condition) (global.Info, error) {
			return tier.Put(t.Context(), key, int64(len(text)), strings.NewReader(text), c)
		}
		first, err := put("first", global.Condition{IfAbsent: true})
		if err != nil || first.Size != 5 {
			t.Fatalf("put: %+v, %v", first, err)
		}
		if got := content(s) + content(far); got != "firstfirst" {
			t.Errorf("values are %s", got)
		}
		if err := s.SetAt("k", 0, []byte("F")); err != nil {
			t.Fatal(err)
		}
		if _, err := put("refused", global.Condition{IfVersion: first.Version + 1}); !errors.Is(err, global.ErrVersion) {
			t.Errorf("put with another version: %v", err)
		}
		if got := content(s); got != "First" {
			t.Errorf("a put that was refused left %q", got)
		}
		second, err := put("the second", global.Condition{IfVersion: first.Version})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := content(s)+", "+content(far), "the second, first"; got != want {
			t.Errorf("values are %q, want %q", got, want)
		}
		if err := far.Pull("k"); err != nil {
			t.Fatal(err)
		}
		if got := content(far); got != "the second" {
			t.Errorf("after the pull: %q", got)
		}
		buf := make([]byte, 6)
		if n, info, err := tier.Read(t.Context(), key, 4, buf); string(buf[:n]) != "second" || info != second || err != nil {
			t.Errorf("read %q of %+v, %v", buf[:n], info, err)
		}
		got, err := tier.List(t.Context(), "t", "", "", 9)
		if want := []global.Entry{{Name: "k", Info: second}}; err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("list: %v, %v", cmp.Diff(want, got), err)
		}
		lease, err := tier.Lock(t.Context(), key, toWrite)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.LockGlobal("k", toRead, 0); !errors.Is(err, global.ErrTimeout) {
			t.Errorf("lock while a person has it: %v", err)
		}
		if err := lease.Unlock(t.Context()); err != nil {
			t.Error(err)
		}
		if err := tier.Delete(t.Context(), key, global.Condition{IfVersion: first.Version}); !errors.Is(err, global.ErrVersion) {
			t.Errorf("delete with another version: %v", err)
		}
		if got := content(s); got != "the second" {
			t.Errorf("a delete that was refused left %q", got)
		}
		if err := tier.Delete(t.Context(), key, global.Condition{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Size("k"); !errors.Is(err, global.ErrNotFound) {
			t.Errorf("size after delete: %v", err)
		}
		if err := tier.Delete(t.Context(), key, global.Condition{}); !errors.Is(err, global.ErrNotFound) {
			t.Errorf("second delete: %v", err)
		}
	})
}
