package cli

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/channel/xlcfg"
)

func (a *app) checkCommand() *cobra.Command {
	var strict bool
	var version string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a domain configuration and print its channels",
		Long: `Check reads a domain's configuration and prints the channels that the stock
tools make of it: xl of an xl.cfg, libvirt's Xen driver of libvirt XML. It tells
them apart by their content; it reads the JSON of "xl -N create" and "xl list -l"
too. FILE may be - for standard input.

What xl or libvirt refuses is an error: all errors are reported at once, each as
FILE:LINE:COL: what: why; fix, and make the exit status 2. Warnings do not: they
say where xl does something that the file does not show, like dropping an item,
and what xenchan cannot serve, like two channels of one name. With --strict they
are errors too. Notes are about the tools and not about the file.

Some of it depends on the version of xl: --xen names it. On a Xen host it is the
host's own unless it is named; elsewhere check speaks of every version from 4.17 on.
Check judges the language, the domain's name and uuid and its channels, and nothing
else.`,
		Example: `  xenchan check /etc/xen/web.cfg
  xenchan check --strict --xen 4.18.5 web.cfg
  virsh dumpxml --inactive web | xenchan check - -o json`,
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			xen, err := xenVersion(version, "/sys/hypervisor")
			if err != nil {
				return usageError{err}
			}
			return a.check(args[0], xen, strict)
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "refuse what is only warned about else")
	cmd.Flags().StringVar(&version, "xen", "", "the `VERSION` of Xen whose xl reads the file, as 4.17.5")
	cmd.RegisterFlagCompletionFunc("xen", cobra.NoFileCompletions)
	return cmd
}

func (a *app) check(path string, xen xlcfg.Version, strict bool) error {
	file, err := a.parseConfig(path)
	if err != nil {
		return err
	}
	channels, warnings, err := file.Stock(xen)
	for _, w := range warnings {
		switch {
		case w.Note:
			a.warn("note: %s", w.String())
		case !strict:
			a.warn("warning: %s", w.String())
		}
	}
	if strict {
		err = domcfg.Strict(warnings, err)
	}
	if err != nil {
		return a.reportErrors(err)
	}
	if a.output == "json" {
		specs := []channel.Spec{}
		for _, l := range channels {
			specs = append(specs, l.Spec)
		}
		return a.printJSON(specs)
	}
	return a.printSpecs(channels)
}

// xenVersion is the version that the user named, or that of the Xen that runs
// here, or else the zero Version.
func xenVersion(named, hypervisor string) (xlcfg.Version, error) {
	if named != "" {
		return xlcfg.ParseVersion(named)
	}
	read := func(name string) string {
		b, _ := os.ReadFile(hypervisor + "/" + name)
		return strings.TrimSuffix(string(b), "\n")
	}
	if read("type") != "xen" {
		return xlcfg.Version{}, nil
	}
	v, err := xlcfg.ParseVersion(read("version/major") + "." + read("version/minor") + read("version/extra"))
	if err != nil {
		return xlcfg.Version{}, nil // of a Xen that keeps it from its guests
	}
	return v, nil
}

func (a *app) printSpecs(channels []domcfg.Located) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	wide := a.output == "wide"
	fmt.Fprint(w, "NAME\tCONNECTION\tPATH\tBACKEND")
	if wide {
		fmt.Fprint(w, "\tMODE\tOWNER\tGROUP\tALLOW\tSPOOL\tOVERFLOW")
	}
	fmt.Fprintln(w)
	for _, c := range channels {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s", cell(c.Name), c.Connection, cell(c.Path), cell(c.Backend))
		if wide {
			mode, spool := "", ""
			if c.Mode != 0 {
				mode = fmt.Sprintf("%04o", uint32(c.Mode))
			}
			if c.Spool != 0 {
				spool = strconv.FormatInt(c.Spool, 10)
			}
			fmt.Fprintf(w, "\t%s\t%s\t%s\t%s\t%s\t%s", cell(mode), cell(c.Owner), cell(c.Group), cell(c.Allow), cell(spool), cell(string(c.Overflow)))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
