// What a Go program does with a cluster through the unmodified go-dqlite driver and client, one scenario per run.
//
//	foreign-go SCENARIO host:port,host:port,... database
//
// It says "ready" where the test may kill a node and waits for a line on its input; it ends with "done", or with a
// message on stderr and status 1.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/canonical/go-dqlite/client"
	"github.com/canonical/go-dqlite/driver"
)

const patience = 30 * time.Second

type world struct {
	ctx     context.Context
	store   client.NodeStore
	servers []string
	db      *sql.DB
	input   *bufio.Reader
}

var scenarios = map[string]func(*world){
	"values":       values,
	"transactions": transactions,
	"prepared":     prepared,
	"rows":         rows,
	"interrupt":    interrupt,
	"endless":      endless,
	"kill":         kill,
	"members":      members,
	"leadership":   leadership,
	"bench":        bench,
	"idle":         idle,
	"fill":         fill,
}

func main() {
	if len(os.Args) < 4 || scenarios[os.Args[1]] == nil {
		fail("usage: foreign-go SCENARIO SERVERS DATABASE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit())
	defer cancel()
	w := &world{ctx: ctx, servers: strings.Split(os.Args[2], ","), input: bufio.NewReader(os.Stdin)}
	w.store = client.NewInmemNodeStore()
	var infos []client.NodeInfo
	for _, address := range w.servers {
		infos = append(infos, client.NodeInfo{Address: address})
	}
	must(w.store.Set(ctx, infos))
	found, err := driver.New(w.store, driver.WithLogFunc(func(client.LogLevel, string, ...interface{}) {}))
	must(err)
	sql.Register("dqlite", found)
	w.db, err = sql.Open("dqlite", os.Args[3])
	must(err)
	scenarios[os.Args[1]](w)
	must(w.db.Close())
	fmt.Println("done")
}

// limit of the whole run; a load may be asked to last longer.
func limit() time.Duration {
	if os.Args[1] == "bench" || os.Args[1] == "idle" || os.Args[1] == "fill" {
		return 3 * time.Hour
	}
	return 4 * patience
}

func fail(format string, arguments ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(is bool, format string, arguments ...interface{}) {
	if !is {
		panic(fmt.Sprintf(format, arguments...))
	}
}

func equal(found, expected interface{}, what string) {
	check(reflect.DeepEqual(found, expected), "%s: found %#v, expected %#v", what, found, expected)
}

// pause hands over to the test, which kills a node or not.
func (w *world) pause() {
	fmt.Println("ready")
	_, err := w.input.ReadString('\n')
	must(err)
}

func (w *world) exec(text string, arguments ...interface{}) sql.Result {
	result, err := w.db.ExecContext(w.ctx, text, arguments...)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", text, err))
	}
	return result
}

// all reads every row as the driver gives it.
func (w *world) all(text string, arguments ...interface{}) [][]interface{} {
	found, err := w.db.QueryContext(w.ctx, text, arguments...)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", text, err))
	}
	return drain(found)
}

func drain(found *sql.Rows) [][]interface{} {
	columns, err := found.Columns()
	must(err)
	result := [][]interface{}{}
	for found.Next() {
		row := make([]interface{}, len(columns))
		pointers := make([]interface{}, len(columns))
		for i := range row {
			pointers[i] = &row[i]
		}
		must(found.Scan(pointers...))
		result = append(result, row)
	}
	must(found.Err())
	must(found.Close())
	return result
}

func (w *world) one(text string, arguments ...interface{}) int64 {
	return w.all(text, arguments...)[0][0].(int64)
}

// code of a failure that a server told, or 0.
func code(err error) int {
	var failure driver.Error
	if errors.As(err, &failure) {
		return failure.Code
	}
	return 0
}
