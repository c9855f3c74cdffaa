package main

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/canonical/go-dqlite/client"
)

type tally struct {
	Latencies []float64      `json:"ms"` // of successes
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
	tallies := make([]tally, clients)
	var group sync.WaitGroup
	for number := range tallies {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			tallies[number] = write(w, number, value, begin, end)
		}(number)
	}
	group.Wait()
	total := tally{Latencies: []float64{}, Errors: map[string]int{}}
	for _, one := range tallies {
		total.Latencies = append(total.Latencies, one.Latencies...)
		for text, count := range one.Errors {
			total.Errors[text] += count
		}
	}
	text, err := json.Marshal(total)
	must(err)
	fmt.Println(string(text))
}

func write(w *world, number int, value string, begin, end time.Time) tally {
	found := tally{Errors: map[string]int{}}
	connection, err := w.db.Conn(w.ctx)
	must(err)
	defer connection.Close()
	for i := 0; ; i++ {
		started := time.Now()
		if started.After(end) {
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
		} else {
			found.Errors[err.Error()]++
		}
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
