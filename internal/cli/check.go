package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a domain configuration and print its channels",
		Long: `Check reads a domain's configuration, an xl.cfg, and prints the channels in it.
All errors are reported at once, as FILE:LINE:COL: what: why; fix. Warnings say
where stock xl does something that one would not expect, or refuses what xenchan
accepts.`,
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
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tCONNECTION\tPATH\tBACKEND")
			for _, l := range c.channels {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", orDash(l.Name), l.Connection, orDash(l.Path), orDash(l.Backend))
			}
			return w.Flush()
		},
	}
}
