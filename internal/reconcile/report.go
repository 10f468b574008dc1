package reconcile

import (
	"encoding/json"
	"net/http"

	"github.com/xenchan/xenchan/channel/domcfg"
)

// Action is what became of a declared channel.
type Action string

// What a reconciler does. A dry run has the same words for what it would do.
const (
	Attached Action = "attached"
	Detached Action = "detached"
	Replaced Action = "replaced" // detached and attached anew, with another spec
	Kept     Action = "kept"
	Waiting  Action = "waiting"  // the domain is being made
	Conflict Action = "conflict" // somebody else has the name or the path
	Failed   Action = "failed"   // is tried again
)

// Row is one declared channel of one domain.
type Row struct {
	DomID  uint16 `json:"domid"`
	Domain string `json:"domain"`
	Name   string `json:"name"`
	// File and Line say where it is declared; Line is 0 when it no longer is.
	File   string `json:"file"`
	Line   int    `json:"line"`
	Action Action `json:"action"`
	// Problem says why, when Action alone does not.
	Problem string `json:"problem,omitempty"`
}

// Bad says that a row is not as declared, and will not be by itself.
func (r Row) Bad() bool { return r.Action == Conflict || r.Action == Failed }

// Mistake is one thing wrong with the drop-in files.
type Mistake struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Col  int    `json:"col"`
	// Message is all of it, place and fix included.
	Message string `json:"message"`
}

// Report is what the drop-in files say and what became of it.
type Report struct {
	DryRun   bool      `json:"dry_run"`
	Mistakes []Mistake `json:"mistakes"`
	Channels []Row     `json:"channels"`
}

func newReport(mistakes domcfg.Errors) Report {
	r := Report{Mistakes: []Mistake{}, Channels: []Row{}}
	for _, m := range mistakes {
		r.Mistakes = append(r.Mistakes, Mistake{File: m.File, Line: m.Line, Col: m.Col, Message: m.String()})
	}
	return r
}

// Paths of a daemon's status socket.
const (
	// ReportPath is the report of the last look.
	ReportPath = "/v1/declared"
	// ApplyPath, to be posted to, reads the files anew and makes it so; with
	// ?dry_run=1 it only says what it would do.
	ApplyPath = "/v1/apply"
)

// Routes are what the reconciler answers on the status socket.
func (r *Reconciler) Routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET " + ReportPath: func(w http.ResponseWriter, _ *http.Request) { writeReport(w, r.Report()) },
		"POST " + ApplyPath: func(w http.ResponseWriter, req *http.Request) {
			report, err := r.Apply(req.Context(), req.URL.Query().Get("dry_run") != "")
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			writeReport(w, report)
		},
	}
}

func writeReport(w http.ResponseWriter, report Report) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(report)
}
