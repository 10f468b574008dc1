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
		Example: "  xenchan version\n  xenchan version -o json",
		Args:    args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := version()
			if a.output == "json" {
				return a.printJSON(map[string]string{"version": v, "go": runtime.Version(), "arch": runtime.GOARCH})
			}
			fmt.Fprintf(a.stdout, "xenchan %s (%s, linux/%s)\n", v, runtime.Version(), runtime.GOARCH)
			return nil
		},
	}
}

// version is what the Go tool recorded in the binary.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
