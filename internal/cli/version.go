package cli

import (
	"fmt"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/xenchan/xenchan/channel"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Version prints the version of xenchan and of the Go it was built with, and with -o json
also the features that a script can rely on, each a word: command-NAME, flag-COMMAND-FLAG,
spec-KEY for the keys of a channel, list-KEY for those of list -o json, and event-KIND. A
word that is there once stays.`,
		Example: `  xenchan version
  xenchan version -o json | grep -q '"flag-attach-wait"' || exit 1`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.printVersion(cmd.Root()) },
	}
}

func (a *app) printVersion(root *cobra.Command) error {
	v := version()
	if a.output == "json" {
		return a.printJSON(struct {
			Version  string   `json:"version"`
			Go       string   `json:"go"`
			Arch     string   `json:"arch"`
			Features []string `json:"features"`
		}{v, runtime.Version(), runtime.GOARCH, features(root)})
	}
	_, err := fmt.Fprintf(a.stdout, "xenchan %s (%s, linux/%s)\n", v, runtime.Version(), runtime.GOARCH)
	return err
}

// features are words for what a script may want to know before it relies on it
// (what LIBXL_HAVE_… is for a program that is compiled against libxl). They are
// made of what is there, so that none can be untrue.
func features(root *cobra.Command) []string {
	var words []string
	var walk func(c *cobra.Command, name string)
	walk = func(c *cobra.Command, name string) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Name != "help" {
				words = append(words, "flag"+name+"-"+f.Name)
			}
		})
		for _, sub := range c.Commands() {
			if !sub.Hidden {
				words = append(words, "command"+name+"-"+sub.Name())
				walk(sub, name+"-"+sub.Name())
			}
		}
	}
	walk(root, "")
	for _, k := range channel.Keys() {
		words = append(words, "spec-"+k)
	}
	for i, row := 0, reflect.TypeFor[channel.Info](); i < row.NumField(); i++ {
		words = append(words, "list-"+row.Field(i).Tag.Get("json"))
	}
	for _, k := range channel.EventKinds() {
		words = append(words, "event-"+string(k))
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// version is what the Go tool recorded in the binary.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
