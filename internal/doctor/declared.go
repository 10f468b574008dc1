package doctor

import (
	"context"
	"net/http"
	"strconv"

	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/reconcile"
)

// checkDeclared looks for what is wrong with the drop-in files, and for channels
// of a domain, or of all, that are not as they declare.
func checkDeclared(ctx context.Context, runDir, domain, name string) []Finding {
	var found reconcile.Report
	r := &report{subject: "declared channels"}
	if err := daemon.Call(ctx, runDir, http.MethodGet, reconcile.ReportPath, &found); err != nil {
		r.add("declared-unknown", Warning, "restart the daemon", "%v", err)
		return r.findings
	}
	for _, m := range found.Mistakes {
		r.add("drop-in-file", Failed, "correct the file, then: xenchan apply", "%s", m.Message)
	}
	for _, row := range found.Channels {
		if !row.Bad() || domain != "" && domain != row.Domain && domain != strconv.Itoa(int(row.DomID)) || name != "" && name != row.Name {
			continue
		}
		one := &report{subject: row.Domain + "/" + row.Name}
		one.add("declared-"+string(row.Action), Failed, "", "declared in %s, but not so: %s", row.File, row.Problem)
		r.findings = append(r.findings, one.findings...)
	}
	return r.findings
}
