package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Version prints the version of xenchan and of the Go it was built with.",
		Example: "  xenchan version\n  xenchan version -o json",
		Args:    args(0, 0),
		RunE:    func(*cobra.Command, []string) error { return a.printVersion() },
	}
}

func (a *app) printVersion() error {
	v := version()
	if a.output == "json" {
		return a.printJSON(struct {
			Version string `json:"version"`
			Go      string `json:"go"`
			Arch    string `json:"arch"`
		}{v, runtime.Version(), runtime.GOARCH})
	}
	_, err := fmt.Fprintf(a.stdout, "xenchan %s (%s, linux/%s)\n", v, runtime.Version(), runtime.GOARCH)
	return err
}

// version is what the Go tool recorded in the binary.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
