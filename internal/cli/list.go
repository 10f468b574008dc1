package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/devicemodel"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
	"github.com/xenchan/xenchan/xenbus"
)

func (a *app) listCommand() *cobra.Command {
	var xl bool
	cmd := &cobra.Command{
		Use:   "list [DOMAIN]",
		Short: "List channels",
		Long: `List shows the channels of one domain or of all. STATE is the state of the host's
half of the device, GUEST what is known of the program in the guest, CLIENTS how
many programs on the host are connected. The last two, and the counters that
-o wide and -o json show beside them, are known only while a daemon answers.`,
		Example: `  xenchan list
  xenchan list web -o wide
  xenchan list -o json | jq '.[] | select(.dropped_bytes > 0) | .name'
  xenchan list web --xl      the columns of xl channel-list`,
		Args:              args(0, 1),
		ValidArgsFunction: a.completeDomain,
		RunE: func(cmd *cobra.Command, args []string) error {
			if xl && cmd.Flags().Changed("output") {
				return usagef("--xl is a form of its own: leave -o away")
			}
			tools, err := a.toolstack(cmd.Context())
			if err != nil {
				return err
			}
			defer tools.Store.Close()
			rows, err := collect(cmd.Context(), tools, args)
			if err != nil {
				return err
			}
			if xl {
				a.printXL(rows)
				return nil
			}
			a.addCounters(cmd.Context(), rows, tools.RunDir)
			a.warnMissing(cmd.Context(), tools, args)
			return a.printRows(rows)
		},
	}
	cmd.Flags().BoolVar(&xl, "xl", false, "print exactly what xl channel-list prints")
	return cmd
}

func collect(ctx context.Context, tools *toolstack.Toolstack, args []string) ([]toolstack.Channel, error) {
	var domains []toolstack.Domain
	if len(args) == 1 {
		d, err := tools.Resolve(ctx, args[0])
		if err != nil {
			return nil, err
		}
		domains = append(domains, d)
	} else {
		var err error
		if domains, err = tools.Domains(ctx); err != nil {
			return nil, err
		}
	}
	var rows []toolstack.Channel
	for _, d := range domains {
		channels, err := tools.Channels(ctx, d)
		if err != nil {
			return nil, err
		}
		rows = append(rows, channels...)
	}
	return rows, nil
}

// addCounters adds what only the daemon knows, or a device model that serves its
// domain alone. Where neither answers the fields stay empty.
func (a *app) addCounters(ctx context.Context, rows []toolstack.Channel, runDir string) {
	known := make(map[device]daemon.Status)
	ask := func(runDir string) {
		all, err := daemon.Query(ctx, runDir)
		if err != nil {
			return
		}
		for _, s := range all {
			known[device{s.DomID, s.DevID}] = s
		}
	}
	ask(runDir)
	asked := make(map[uint16]bool)
	for i := range rows {
		r := &rows[i]
		alone := r.ServedBy == channel.ServerStandIn
		if alone && !asked[r.DomID] {
			asked[r.DomID] = true
			ask(devicemodel.RunDir(runDir, xen.DomID(r.DomID)))
		}
		s, ok := known[device{r.DomID, r.DevID}]
		if !ok {
			continue
		}
		s.Fill(&r.Info)
		if alone {
			r.ServedBy = channel.ServerStandIn
		}
		if s.Problem != "" {
			a.warn("%s of %s: clients cannot connect: %s", r.Name, r.Domain, s.Problem)
		}
	}
}

// device names a channel's device.
type device struct {
	dom uint16
	dev int
}

func (a *app) printRows(rows []toolstack.Channel) error {
	if a.output == "json" {
		infos := []channel.Info{}
		for _, r := range rows {
			infos = append(infos, r.Info)
		}
		return a.printJSON(infos)
	}
	out := bufio.NewWriter(a.stdout) // a tabwriter writes each cell by itself
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if a.output == "wide" {
		fmt.Fprintln(w, "DOMAIN\tDOMID\tDEVID\tNAME\tCONNECTION\tSTATE\tFRONTEND\tGUEST\tCLIENTS\tWAITING\tOBSERVERS\tTO-HOST\tTO-GUEST\tSPOOLED\tDROPPED\tSKIPPED\tREFUSED\tORIGIN\tSERVED-BY\tBACKEND\tPORT\tRING-REF\tPATH")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n",
				cell(r.Domain), r.DomID, r.DevID, cell(r.Name), cell(string(r.Connection)), stateWord(r.State), stateWord(r.FrontendState), r.Guest,
				number(r.Clients), number(r.WaitingClients), number(r.Observers), number(r.GuestToHost), number(r.HostToGuest),
				number(r.Spooled), number(r.Dropped), number(r.Skipped), number(r.Refused),
				cell(origin(r)), servedBy(r), r.BackendDomID, number(r.Port), number(r.RingRef), place(r))
		}
		return errors.Join(w.Flush(), out.Flush())
	}
	fmt.Fprintln(w, "DOMAIN\tNAME\tCONNECTION\tSTATE\tGUEST\tCLIENTS\tPATH")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			cell(r.Domain), cell(r.Name), cell(string(r.Connection)), stateWord(r.State), r.Guest, number(r.Clients), place(r))
	}
	return errors.Join(w.Flush(), out.Flush())
}

// printXL prints what `xl channel-list` prints, trailing blanks included: a
// counter for an index, the frontend's word for the state, -1 for what is missing
// (xl_console.c, main_channellist).
func (a *app) printXL(rows []toolstack.Channel) {
	fmt.Fprintf(a.stdout, "%-3s %-2s %-5s %-6s %8s %-10s %-30s\n", "Idx", "BE", "state", "evt-ch", "ring-ref", "connection", "")
	idx, dom := 0, uint16(0)
	for _, r := range rows {
		if r.DomID != dom {
			idx, dom = 0, r.DomID
		}
		fmt.Fprintf(a.stdout, "%-3d %-2d %-5d %-6d %-8d %-10s ", idx, r.BackendDomID, orMinusOne(r.FrontendState), orMinusOne(r.Port), orMinusOne(r.RingRef), printable(string(r.Connection)))
		if r.Connection == channel.PTY {
			tty := r.TTY
			if r.NoTTY {
				tty = "/NO-SUCH-PATH"
			}
			fmt.Fprintf(a.stdout, "%-30s ", printable(tty))
		}
		fmt.Fprintln(a.stdout)
		idx++
	}
}

// origin is who made a channel, and in which file.
func origin(c toolstack.Channel) string {
	if c.DeclaredIn != "" {
		return string(c.Origin) + "(" + c.DeclaredIn + ")"
	}
	return string(c.Origin)
}

// servedBy is who serves a channel, and which process when that is a QEMU.
func servedBy(c toolstack.Channel) string {
	if c.QEMUPID != nil {
		return fmt.Sprintf("%s[%d]", c.ServedBy, *c.QEMUPID)
	}
	return cell(string(c.ServedBy))
}

// place is where the host end of a channel is.
func place(c toolstack.Channel) string {
	if c.Connection == channel.PTY {
		return cell(c.TTY)
	}
	return cell(c.Path)
}

func number[N int | int32 | uint32 | uint64](n *N) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatUint(uint64(*n), 10)
}

func orMinusOne[N int | uint32](n *N) int64 {
	if n == nil {
		return -1
	}
	return int64(*n)
}

func stateWord(s *int) string {
	if s == nil {
		return "missing"
	}
	return xenbus.State(*s).String()
}
