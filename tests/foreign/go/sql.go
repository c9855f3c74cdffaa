package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// isStock: known faults of upstream are not complained about.
func isStock(w *world) bool {
	return len(w.servers) > 0 && strings.HasPrefix(argument(3), "stock")
}

func values(w *world) {
	w.exec("CREATE TABLE v(id INTEGER PRIMARY KEY, i INTEGER, f FLOAT, t TEXT, b BLOB, o BOOLEAN, d DATETIME)")
	when := time.Date(2026, 2, 3, 4, 5, 6, 789000000, time.UTC)
	long := strings.Repeat("ä", 70000)
	insert := "INSERT INTO v(i, f, t, b, o, d) VALUES(?, ?, ?, ?, ?, ?)"
	result := w.exec(insert, int64(-1)<<63, 1.5, "grüße", []byte{0, 1, 255}, true, when)
	id, err := result.LastInsertId()
	must(err)
	equal(id, int64(1), "rowid")
	w.exec(insert, int64(1)<<62, -0.25, "", []byte{}, false, nil)
	w.exec(insert, nil, nil, nil, nil, nil, nil)
	w.exec(insert, 0, 0.0, long, make([]byte, 300000), 1, "2026-02-03 04:05:06")

	found := w.all("SELECT i, f, t, b, o, d FROM v ORDER BY id")
	equal(len(found), 4, "rows")
	equal(found[0], []interface{}{int64(-1) << 63, 1.5, "grüße", []byte{0, 1, 255}, true, when}, "values")
	equal(found[1][:5], []interface{}{int64(1) << 62, -0.25, "", []byte{}, false}, "empty values")
	equal(found[2][:4], []interface{}{nil, nil, nil, nil}, "NULLs")
	equal(found[2][5], nil, "NULL in a DATETIME column")
	if !isStock(w) {
		equal(found[2][4], nil, "NULL in a BOOLEAN column")
	}
	equal(found[3][2], long, "a long text")
	equal(len(found[3][3].([]byte)), 300000, "a long blob")
	equal(found[3][5], time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), "a time written as text")

	var name sql.NullString
	var flag sql.NullBool
	must(w.db.QueryRowContext(w.ctx, "SELECT t, o FROM v WHERE id = 1").Scan(&name, &flag))
	check(name.Valid && flag.Valid && flag.Bool, "scanned %v %v", name, flag)
	equal(w.one("SELECT count(*) FROM v WHERE o"), int64(2), "BOOLEAN in a condition")
	err = w.db.QueryRowContext(w.ctx, "SELECT t FROM v WHERE id = 99").Scan(&name)
	equal(err, sql.ErrNoRows, "no row")
}

func transactions(w *world) {
	w.exec("CREATE TABLE k(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL)")
	tx, err := w.db.BeginTx(w.ctx, nil)
	must(err)
	_, err = tx.Exec("INSERT INTO k(name) VALUES(?)", "rolled back")
	must(err)
	var count int
	must(tx.QueryRow("SELECT count(*) FROM k").Scan(&count))
	equal(count, 1, "its own row inside")
	must(tx.Rollback())
	equal(w.one("SELECT count(*) FROM k"), int64(0), "after ROLLBACK")

	tx, err = w.db.BeginTx(w.ctx, nil)
	must(err)
	for i := 0; i < 3; i++ {
		_, err = tx.Exec("INSERT INTO k(name) VALUES(?)", fmt.Sprint("name", i))
		must(err)
	}
	_, err = tx.Exec("INSERT INTO k(name) VALUES('name0')")
	equal(code(err), 2067, fmt.Sprint("UNIQUE in a transaction: ", err))
	result, err := tx.Exec("UPDATE k SET name = name || '!'")
	must(err)
	changed, err := result.RowsAffected()
	must(err)
	equal(changed, int64(3), "rows affected")
	must(tx.Commit())
	equal(w.one("SELECT count(*) FROM k WHERE name LIKE '%!'"), int64(3), "after COMMIT")

	for text, expected := range map[string]int{
		"INSERT INTO k(name) VALUES('name0!')": 2067,
		"INSERT INTO k(name) VALUES(NULL)":     1299,
		"INSERT INTO nowhere VALUES(1)":        1,
		"NOT SQL":                              1,
	} {
		_, err = w.db.ExecContext(w.ctx, text)
		equal(code(err), expected, fmt.Sprint(text, ": ", err))
	}
	w.exec("INSERT INTO k(name) VALUES('a'); INSERT INTO k(name) VALUES('b');")
	equal(w.one("SELECT count(*) FROM k"), int64(5), "two statements of one text")

	// Writing transactions of many connections queue; upstream tells all but one that the database is locked.
	done := make(chan error, 8)
	for i := 0; i < cap(done); i++ {
		go func(i int) { done <- increment(w) }(i)
	}
	succeeded := 0
	for i := 0; i < cap(done); i++ {
		if err := <-done; err == nil {
			succeeded++
		} else {
			check(isStock(w) && code(err)&0xff == 5, "a concurrent transaction: %v", err)
		}
	}
	equal(w.one("SELECT count(*) FROM k WHERE name LIKE 'more%'"), int64(succeeded), "rows of those that committed")
}

func increment(w *world) error {
	tx, err := w.db.BeginTx(w.ctx, nil)
	if err != nil {
		return err
	}
	if _, err = tx.Exec("INSERT INTO k(name) VALUES('more' || random())"); err != nil {
		_ = tx.Rollback()
		return err
	}
	if err = tx.Commit(); err != nil {
		_ = tx.Rollback()
	}
	return err
}

func prepared(w *world) {
	w.exec("CREATE TABLE p(id INTEGER PRIMARY KEY, n INTEGER, t TEXT)")
	insert, err := w.db.PrepareContext(w.ctx, "INSERT INTO p(n, t) VALUES(?, ?)")
	must(err)
	for i := 0; i < 100; i++ {
		result, err := insert.ExecContext(w.ctx, i, fmt.Sprint("t", i))
		must(err)
		id, _ := result.LastInsertId()
		equal(id, int64(i+1), "rowid")
	}
	query, err := w.db.PrepareContext(w.ctx, "SELECT t FROM p WHERE n >= ? ORDER BY n LIMIT ?")
	must(err)
	for i := 0; i < 50; i += 10 {
		found, err := query.QueryContext(w.ctx, i, 3)
		must(err)
		got := drain(found)
		equal(len(got), 3, "rows of a prepared query")
		equal(got[2][0], fmt.Sprint("t", i+2), "its third row")
	}
	tx, err := w.db.BeginTx(w.ctx, nil)
	must(err)
	_, err = tx.StmtContext(w.ctx, insert).Exec(1000, "in a transaction")
	must(err)
	must(tx.Rollback())
	equal(w.one("SELECT count(*) FROM p"), int64(100), "after ROLLBACK")
	must(insert.Close())
	must(query.Close())
	_, err = w.db.PrepareContext(w.ctx, "SELECT missing FROM nowhere")
	equal(code(err), 1, fmt.Sprint("PREPARE of what does not exist: ", err))

	many := make([]interface{}, 255) // the most that this driver sends
	for i := range many {
		many[i] = i
	}
	marks := strings.TrimSuffix(strings.Repeat("?,", len(many)), ",")
	equal(w.one("SELECT count(*) FROM p WHERE n IN ("+marks+")", many...), int64(100), "255 parameters")
	w.exec("DELETE FROM p WHERE n IN ("+marks+")", many...)
	equal(w.one("SELECT count(*) FROM p"), int64(0), "after DELETE")
}

const series = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < %d) SELECT n, 'row ' || n FROM s"

func rows(w *world) {
	found, err := w.db.QueryContext(w.ctx, fmt.Sprintf(series, 50000))
	must(err)
	sum, count := int64(0), int64(0)
	for found.Next() {
		var n int64
		var text string
		must(found.Scan(&n, &text))
		sum, count = sum+n, count+1
	}
	must(found.Err())
	must(found.Close())
	equal([]int64{count, sum}, []int64{50000, 50000 * 50001 / 2}, "rows and their sum")
}

func interrupt(w *world) {
	w.db.SetMaxOpenConns(1) // the same connection goes on afterwards
	for i := 0; i < 5; i++ {
		found, err := w.db.QueryContext(w.ctx, fmt.Sprintf(series, 1000000))
		must(err)
		check(found.Next(), "no first row: %v", found.Err())
		must(found.Close())
		equal(w.one("SELECT 42"), int64(42), "a query after one that was closed early")
	}
	ctx, cancel := context.WithCancel(w.ctx)
	found, err := w.db.QueryContext(ctx, fmt.Sprintf(series, 1000000))
	must(err)
	check(found.Next(), "no first row: %v", found.Err())
	cancel()
	for found.Next() {
	}
	check(found.Err() != nil, "a cancelled query ended as if it were complete")
	_ = found.Close()
	equal(w.one("SELECT 43"), int64(43), "a query after one that was cancelled")
}

// endless: a query without an end is given up, and costs nobody else anything afterwards.
func endless(w *world) {
	const text = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s) SELECT max(n) FROM s LIMIT 1"
	w.exec("CREATE TABLE e(n)")
	for i := 0; i < 3; i++ {
		ctx, cancel := context.WithTimeout(w.ctx, 200*time.Millisecond)
		_, err := w.db.QueryContext(ctx, text)
		check(err != nil, "an endless query ended")
		cancel()
		w.exec("INSERT INTO e VALUES(?)", i)
	}
	equal(w.one("SELECT count(*) FROM e"), int64(3), "rows written meanwhile")
}
