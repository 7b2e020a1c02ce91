package call

import (
	"flag"
	"os"
	"testing"
)

// child makes the test binary run one of the children that tests start and kill.
var child = flag.String("call.child", "", "run as the named child process of a test")

// rewrite makes tests write the files in testdata that they compare with.
var rewrite = flag.Bool("call.rewrite", false, "write the files in testdata again")

// seed is what the damage of pages is drawn from.
var seed = flag.Uint64("call.seed", 1, "seed of random damage to pages")

func TestMain(m *testing.M) {
	flag.Parse()
	switch *child {
	case "":
		os.Exit(m.Run())
	case "accept":
		childAccept(flag.Arg(0))
	case "full-disk":
		childFullDisk(flag.Arg(0))
	}
}
