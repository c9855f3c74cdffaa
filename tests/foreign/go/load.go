package main

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/canonical/go-dqlite/client"
)

type tally struct {
	Latencies []float64      `json:"ms"` // of successes
	Ended     []float64      `json:"at"` // when each ended, seconds since 1970
	Errors    map[string]int `json:"errors"`
}

// bench: foreign-go bench SERVERS DATABASE CLIENTS SECONDS WARM_UP BYTES; the key-value writes of dqlite-benchmark.
// Each client has a connection of its own, and tries something else at once when it is told "database is locked".
func bench(w *world) {
	clients, seconds, warm, size := number(4), number(5), number(6), number(7)
	w.exec("CREATE TABLE IF NOT EXISTS model(key TEXT, value TEXT, UNIQUE(key))")
	w.db.SetMaxOpenConns(clients)
	w.db.SetMaxIdleConns(clients)
	value := strings.Repeat("v", size)
	begin := time.Now().Add(time.Duration(warm) * time.Second)
	end := begin.Add(time.Duration(seconds) * time.Second)
	var enough atomic.Bool // a line on the input ends it early
	go func() {
		if _, err := w.input.ReadString('\n'); err == nil {
			enough.Store(true)
		}
	}()
	tallies := make([]tally, clients)
	var group sync.WaitGroup
	for number := range tallies {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			tallies[number] = write(w, number, value, begin, end, &enough)
		}(number)
	}
	group.Wait()
	total := tally{Latencies: []float64{}, Ended: []float64{}, Errors: map[string]int{}}
	for _, one := range tallies {
		total.Latencies = append(total.Latencies, one.Latencies...)
		total.Ended = append(total.Ended, one.Ended...)
		for text, count := range one.Errors {
			total.Errors[text] += count
		}
	}
	text, err := json.Marshal(total)
	must(err)
	fmt.Println(string(text))
}

func write(w *world, number int, value string, begin, end time.Time, enough *atomic.Bool) tally {
	found := tally{Errors: map[string]int{}}
	connection, err := w.db.Conn(w.ctx)
	must(err)
	defer connection.Close()
	for i := 0; ; i++ {
		started := time.Now()
		if started.After(end) || enough.Load() {
			return found
		}
		key := fmt.Sprintf("%016d%016d", number, i)
		_, err := connection.ExecContext(w.ctx, "INSERT OR REPLACE INTO model(key, value) VALUES(?, ?)", key, value)
		ended := time.Now()
		if ended.Before(begin) || ended.After(end) {
			continue
		}
		if err == nil {
			found.Latencies = append(found.Latencies, float64(ended.Sub(started))/float64(time.Millisecond))
			found.Ended = append(found.Ended, float64(ended.UnixMicro())/1e6)
		} else {
			found.Errors[err.Error()]++
		}
	}
}

// fill: foreign-go fill SERVERS DATABASE MIB: so much that does not compress, in rows of 64 KiB.
func fill(w *world) {
	w.exec("CREATE TABLE IF NOT EXISTS filler(b BLOB)")
	text := "INSERT INTO filler VALUES" + strings.TrimSuffix(strings.Repeat("(?),", 16), ",")
	source := rand.New(rand.NewSource(1))
	for i := 0; i < number(4); i++ {
		rows := make([]interface{}, 16)
		for j := range rows {
			blob := make([]byte, 65536)
			_, _ = source.Read(blob)
			rows[j] = blob
		}
		w.exec(text, rows...)
	}
}

// idle: foreign-go idle SERVERS DATABASE COUNT: connections with an open database to the leader that do nothing.
func idle(w *world) {
	w.exec("CREATE TABLE IF NOT EXISTS model(key TEXT, value TEXT, UNIQUE(key))")
	info, err := w.leader().Leader(w.ctx)
	must(err)
	var connections []net.Conn
	var mutex sync.Mutex
	var group sync.WaitGroup
	slots := make(chan bool, 50)
	for i := 0; i < number(4); i++ {
		group.Add(1)
		slots <- true
		go func() {
			defer group.Done()
			connection, err := client.DefaultDialFunc(w.ctx, info.Address)
			must(err)
			open(connection, argument(3))
			mutex.Lock()
			connections = append(connections, connection)
			mutex.Unlock()
			<-slots
		}()
	}
	group.Wait()
	w.pause()
	for _, connection := range connections {
		_ = connection.Close()
	}
}

// open sends handshake, CLIENT and OPEN, as the driver does, and reads both answers.
func open(connection net.Conn, database string) {
	name := append([]byte(database), make([]byte, 8-len(database)%8)...)
	frame := func(kind byte, body []byte) []byte {
		words := len(body) / 8
		return append([]byte{byte(words), byte(words >> 8), 0, 0, kind, 0, 0, 0}, body...)
	}
	text := append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, frame(1, make([]byte, 8))...)
	body := append(append(name, make([]byte, 8)...), []byte("volatile\x00\x00\x00\x00\x00\x00\x00\x00")...)
	_, err := connection.Write(append(text, frame(3, body)...))
	must(err)
	answer := make([]byte, 32) // WELCOME and DB, a header and a word each
	for filled := 0; filled < len(answer); {
		more, err := connection.Read(answer[filled:])
		must(err)
		filled += more
	}
	check(answer[4] == 2 && answer[20] == 4, "answers of types %d and %d to CLIENT and OPEN", answer[4], answer[20])
}

func number(index int) int {
	found, err := strconv.Atoi(argument(index))
	must(err)
	return found
}
