package cli

import (
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/channel/xlcfg"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a domain configuration and print its channels",
		Long: `Check reads a domain's configuration, an xl.cfg, and prints the channels in it.
All errors are reported at once, as FILE:LINE:COL: what: why; fix, and make the
exit status 2. Warnings, which do not, say where stock xl does something that one
would not expect, or refuses what xenchan accepts.`,
		Example: "  xenchan check /etc/xen/web.cfg\n  xenchan check web.cfg -o json",
		Args:    args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := a.readConfig(args[0])
			if err != nil {
				return err
			}
			for _, w := range c.warnings {
				kind := "warning"
				if w.Note { // of some versions of xl
					kind = "note"
				}
				a.warn("%s: %s", kind, w.String())
			}
			if a.output == "json" {
				specs := []channel.Spec{}
				for _, l := range c.channels {
					specs = append(specs, l.Spec)
				}
				return a.printJSON(specs)
			}
			return a.printSpecs(c.channels)
		},
	}
}

func (a *app) printSpecs(channels []xlcfg.Located) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	wide := a.output == "wide"
	fmt.Fprint(w, "NAME\tCONNECTION\tPATH\tBACKEND")
	if wide {
		fmt.Fprint(w, "\tMODE\tOWNER\tGROUP\tSPOOL\tOVERFLOW")
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
			fmt.Fprintf(w, "\t%s\t%s\t%s\t%s\t%s", cell(mode), cell(c.Owner), cell(c.Group), cell(spool), cell(string(c.Overflow)))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
