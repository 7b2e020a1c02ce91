package daemon

import (
	"bytes"
	"context"
	"testing"

	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/workloads"
)

func BenchmarkInvoke_noop(b *testing.B) {
	h, err := New(Options{DataDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	if _, _, err := h.Deploy(context.Background(), api.Upload{Tenant: "t", Function: "noop", Wasm: bytes.Clone(workloads.Wasm("noop"))}); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		_, _, done, err := h.Invoke(ctx, api.Invocation{Tenant: "t", Function: "noop"})
		if err != nil {
			b.Fatal(err)
		}
		done()
	}
}
