package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/cpu"
)

const (
	wasmtimeModule = "github.com/bytecodealliance/wasmtime-go/v39"
	// wasmtimeVersion is what go.mod requires, for binaries without build information.
	wasmtimeVersion = "v39.0.1"
	// settingsRevision counts the changes to the settings that fsl_engine_new makes for
	// every engine.
	settingsRevision = 1
)

// Fingerprint names what the machine code of an artefact depends on: Wasmtime's version,
// the platform, and a hash of the engine's configuration and the processor's features.
// Artefacts are kept under it, so that a host finds those that it can load. It is safe as
// part of an object's name.
//
// It is the index. What is found is checked once more by Load, which asks the processor
// itself; but Load checks Wasmtime's major version only, so an artefact must be
// authenticated as one of this fingerprint.
func (e *Engine) Fingerprint() string { return e.fingerprint }

func fingerprint(cfg Config, version string, features []string) string {
	h := sha256.New()
	fmt.Fprintf(h, "settings %d\nreservation %d\nguard %d\nstack %d\nwasm stack %d\nepochs %t\nfeatures %s\n",
		settingsRevision, cfg.Reservation, cfg.Guard, cfg.Stack, GuestStack(cfg.Stack), cfg.Epochs, strings.Join(features, " "))
	return fmt.Sprintf("wasmtime%s-%s-%s-%s", strings.TrimPrefix(version, "v"), runtime.GOOS, runtime.GOARCH, hex.EncodeToString(h.Sum(nil)[:8]))
}

// version is that of the Wasmtime that is linked into this binary.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == wasmtimeModule {
				if dep.Replace != nil {
					dep = dep.Replace
				}
				return dep.Version
			}
		}
	}
	return wasmtimeVersion
}

// cpuFeatures lists those features of this processor that change what code is generated,
// by the engine's names for them.
func cpuFeatures() []string {
	var out []string
	for _, f := range codeFeatures[runtime.GOARCH] {
		if f.has {
			out = append(out, f.name)
		}
	}
	return out
}

type cpuFeature struct {
	name string
	has  bool
}

// codeFeatures are all that the code generator asks for, but for those of arm64 that
// package cpu can't tell: has_pauth, which Load checks.
var codeFeatures = map[string][]cpuFeature{
	"amd64": {
		{"has_avx", cpu.X86.HasAVX},
		{"has_avx2", cpu.X86.HasAVX2},
		{"has_avx512bitalg", cpu.X86.HasAVX512BITALG},
		{"has_avx512dq", cpu.X86.HasAVX512DQ},
		{"has_avx512f", cpu.X86.HasAVX512F},
		{"has_avx512vbmi", cpu.X86.HasAVX512VBMI},
		{"has_avx512vl", cpu.X86.HasAVX512VL},
		{"has_bmi1", cpu.X86.HasBMI1},
		{"has_bmi2", cpu.X86.HasBMI2},
		{"has_cmpxchg16b", cpu.X86.HasCX16},
		{"has_fma", cpu.X86.HasFMA},
		{"has_lzcnt", cpu.X86.HasLZCNT},
		{"has_popcnt", cpu.X86.HasPOPCNT},
		{"has_sse3", cpu.X86.HasSSE3},
		{"has_sse41", cpu.X86.HasSSE41},
		{"has_sse42", cpu.X86.HasSSE42},
		{"has_ssse3", cpu.X86.HasSSSE3},
	},
	"arm64": {
		{"has_fp16", cpu.ARM64.HasFPHP && cpu.ARM64.HasASIMDHP},
		{"has_lse", cpu.ARM64.HasATOMICS},
	},
}
