package cli

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/xenchan/xenchan/internal/guestcli"
)

// TestMain makes the test binary xenchan when it runs under that name, which is
// in PATH for all tests.
func TestMain(m *testing.M) {
	// The race detector would have every xenchan sleep for a second at its end.
	os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
	testscript.Main(checked{m}, map[string]func(){
		"xenchan": func() {
			os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
		"xenchan-guest": func() {
			os.Exit(guestcli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
		DeviceModelName: func() {
			os.Exit(DeviceModel(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// checked fails when the tests leave goroutines or processes.
type checked struct{ *testing.M }

func (c checked) Run() int {
	code := c.M.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		os.Stderr.WriteString("goroutines are left: " + err.Error() + "\n")
		return 1
	}
	return code
}
