package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/canonical/go-dqlite/client"
)

func argument(index int) string {
	if len(os.Args) > index {
		return os.Args[index]
	}
	return ""
}

// kill: rows are written by several, a transaction is open, the leader dies; what was acknowledged is there.
func kill(w *world) {
	w.exec("CREATE TABLE a(n INTEGER PRIMARY KEY, t TEXT)")
	tx, err := w.db.BeginTx(w.ctx, nil)
	must(err)
	_, err = tx.Exec("INSERT INTO a VALUES(-1, 'of an open transaction')")
	must(err)
	rolled := make(chan error, 1)
	w.pause()
	go func() {
		_, err := tx.Exec("INSERT INTO a VALUES(-2, 'of an open transaction')")
		if err == nil {
			err = tx.Commit()
		} else {
			_ = tx.Rollback()
		}
		rolled <- err
	}()
	check(<-rolled != nil, "a transaction outlived its leader")

	var mutex sync.Mutex
	acknowledged := map[int]bool{}
	var group sync.WaitGroup
	for writer := 0; writer < 4; writer++ {
		group.Add(1)
		go func(writer int) {
			defer group.Done()
			for i := 0; i < 25; i++ {
				n := writer*1000 + i
				if persist(w, n) {
					mutex.Lock()
					acknowledged[n] = true
					mutex.Unlock()
				}
			}
		}(writer)
	}
	group.Wait()
	present := map[int]bool{}
	for _, row := range w.all("SELECT n FROM a") {
		present[int(row[0].(int64))] = true
	}
	check(!present[-1] && !present[-2], "rows of the transaction that failed are there")
	for n := range acknowledged {
		check(present[n], "row %d was acknowledged and is not there", n)
	}
	equal(len(acknowledged), 100, "acknowledged rows")
}

// persist tries until a row is there; a duplicate is one of its own earlier tries.
func persist(w *world, n int) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		_, err := w.db.ExecContext(w.ctx, "INSERT INTO a VALUES(?, ?)", n, fmt.Sprint("row ", n))
		if err == nil || code(err) == 1555 {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

func (w *world) leader() *client.Client {
	found, err := client.FindLeader(w.ctx, w.store)
	must(err)
	return found
}

// members: what the client package asks of nodes, without changing who is a member.
func members(w *world) {
	w.exec("CREATE TABLE m(n)")
	w.exec("INSERT INTO m VALUES(1), (2)")
	leader := w.leader()
	defer leader.Close()
	info, err := leader.Leader(w.ctx)
	must(err)
	nodes, err := leader.Cluster(w.ctx)
	must(err)
	equal(len(nodes), len(w.servers), "members")
	isMember := false
	for _, node := range nodes {
		check(node.ID != 0, "a member without an id: %v", node)
		check(strings.Contains(argument(2), node.Address), "an unknown address: %v", node)
		equal(node.Role, client.Voter, "its role")
		isMember = isMember || node.ID == info.ID && node.Address == info.Address
	}
	check(isMember, "the leader %v is none of %v", info, nodes)
	for index, address := range w.servers {
		node, err := client.New(w.ctx, address)
		must(err)
		same, err := node.Leader(w.ctx)
		must(err)
		equal(same, info, "the leader as another node names it")
		must(node.Weight(w.ctx, uint64(10+index)))
		metadata, err := node.Describe(w.ctx)
		must(err)
		equal(metadata.Weight, uint64(10+index), "weight")
		must(node.Close())
	}
	files, err := leader.Dump(w.ctx, argument(3))
	must(err)
	equal(len(files), 2, "files of a dump")
	equal(files[0].Name, argument(3), "name of the database file")
	equal(files[1].Name, argument(3)+"-wal", "name of the log's file")
	check(strings.HasPrefix(string(files[0].Data), "SQLite format 3") || len(files[1].Data) > 0, "an empty dump")
	check(leader.Remove(w.ctx, 12345) != nil, "a node that does not exist was removed")
	check(leader.Assign(w.ctx, 12345, client.Voter) != nil, "a node that does not exist was assigned a role")
}

// leadership: transfer, role changes and removal; the pool follows. The test restarts nothing.
func leadership(w *world) {
	w.exec("CREATE TABLE l(n)")
	leader := w.leader()
	info, err := leader.Leader(w.ctx)
	must(err)
	nodes, err := leader.Cluster(w.ctx)
	must(err)
	var other client.NodeInfo
	for _, node := range nodes {
		if node.ID != info.ID {
			other = node
		}
	}
	must(leader.Transfer(w.ctx, other.ID))
	_ = leader.Close()
	w.eventually("leadership was transferred", func(ctx context.Context) bool {
		found, err := client.FindLeader(ctx, w.store)
		if err != nil {
			return false
		}
		defer found.Close()
		now, err := found.Leader(ctx)
		return err == nil && now.ID == other.ID
	})
	w.eventually("writes go on", func(ctx context.Context) bool {
		_, err := w.db.ExecContext(ctx, "INSERT INTO l VALUES(1)")
		return err == nil
	})
	leader = w.leader()
	defer leader.Close()
	must(leader.Assign(w.ctx, info.ID, client.Spare))
	// The cluster may give it back its vote by itself: then Assign has nothing to do, which is an error.
	err = leader.Assign(w.ctx, info.ID, client.Voter)
	equal(w.role(leader, info.ID), client.Voter, fmt.Sprint("role after Assign back: ", err))
	must(leader.Remove(w.ctx, info.ID))
	nodes, err = leader.Cluster(w.ctx)
	must(err)
	equal(len(nodes), len(w.servers)-1, "members after Remove")
	w.exec("INSERT INTO l VALUES(2)")
}

func (w *world) role(leader *client.Client, id uint64) client.NodeRole {
	nodes, err := leader.Cluster(w.ctx)
	must(err)
	for _, node := range nodes {
		if node.ID == id {
			return node.Role
		}
	}
	panic(fmt.Sprintf("no member %d in %v", id, nodes))
}

func (w *world) eventually(what string, is func(context.Context) bool) {
	for deadline := time.Now().Add(patience); !is(w.ctx); time.Sleep(50 * time.Millisecond) {
		check(time.Now().Before(deadline), "not in time: %s", what)
	}
}
