#include "session_table.h"

#include <stdlib.h>
#include <string.h>

struct dq_session_table *dq_table_new(void) {
    struct dq_session_table *table = calloc(1, sizeof *table); /* of its megabytes only what is used gets memory */
    if (table != NULL) {
        table->free_session = table->free_row = DQ_NONE;
        table->oldest = table->newest = table->current = DQ_NONE;
    }
    return table;
}

/* -- the hash map: open addressing, linear probing ------------------------------------------------------- */

/* Sessions are random bytes; mixed all the same, for who chooses others. */
static uint32_t home_of(const uint8_t *id) {
    uint64_t halves[2];
    memcpy(halves, id, sizeof halves);
    uint64_t mixed = (halves[0] ^ (halves[1] >> 32 | halves[1] << 32)) * 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ mixed >> 29 ^ halves[1]) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)(mixed >> 40) & (DQ_SESSION_PLACES - 1);
}

static uint32_t next_place(uint32_t place) {
    return (place + 1) & (DQ_SESSION_PLACES - 1);
}

/* Where the session is, or the empty place where it would be. */
static uint32_t place_of(const struct dq_session_table *table, const uint8_t *id) {
    uint32_t place = home_of(id);
    while (table->places[place] != 0 &&
           memcmp(table->sessions[table->places[place] - 1].id, id, DQ_SESSION_BYTES) != 0) {
        place = next_place(place);
    }
    return place;
}

uint32_t dq_table_find(const struct dq_session_table *table, const uint8_t *id) {
    uint32_t occupant = table->places[place_of(table, id)];
    return occupant ? occupant - 1 : DQ_NONE;
}

uint32_t dq_table_add(struct dq_session_table *table, const uint8_t *id) {
    uint32_t slot = table->free_session;
    if (slot != DQ_NONE) {
        table->free_session = table->sessions[slot].next;
    } else {
        slot = table->unused_session++;
    }
    struct dq_session *session = &table->sessions[slot];
    memset(session, 0, sizeof *session);
    memcpy(session->id, id, DQ_SESSION_BYTES);
    session->row = DQ_NONE;
    table->places[place_of(table, id)] = slot + 1;
    table->session_count++;
    return slot;
}

void dq_table_remove(struct dq_session_table *table, uint32_t slot) {
    uint32_t hole = place_of(table, table->sessions[slot].id);
    for (uint32_t place = next_place(hole); table->places[place] != 0; place = next_place(place)) {
        uint32_t home = home_of(table->sessions[table->places[place] - 1].id);
        /* It may move into the hole unless its home lies behind the hole. */
        if (((place - home) & (DQ_SESSION_PLACES - 1)) >= ((place - hole) & (DQ_SESSION_PLACES - 1))) {
            table->places[hole] = table->places[place];
            hole = place;
        }
    }
    table->places[hole] = 0;
    table->sessions[slot].next = table->free_session;
    table->free_session = slot;
    table->session_count--;
}

/* -- rows ------------------------------------------------------------------------------------------------ */

void dq_table_attach(struct dq_session_table *table, uint32_t slot, uint32_t row_slot) {
    struct dq_session *session = &table->sessions[slot];
    struct dq_session_row *row = &table->rows[row_slot];
    session->row = row_slot;
    session->previous = DQ_NONE;
    session->next = row->first;
    if (row->first != DQ_NONE) {
        table->sessions[row->first].previous = slot;
    }
    row->first = slot;
    row->session_count++;
}

void dq_table_detach(struct dq_session_table *table, uint32_t slot) {
    struct dq_session *session = &table->sessions[slot];
    struct dq_session_row *row = &table->rows[session->row];
    *(session->previous == DQ_NONE ? &row->first : &table->sessions[session->previous].next) = session->next;
    if (session->next != DQ_NONE) {
        table->sessions[session->next].previous = session->previous;
    }
    row->session_count--;
    session->row = DQ_NONE;
}

uint32_t dq_table_add_row(struct dq_session_table *table) {
    uint32_t slot = table->free_row;
    if (slot != DQ_NONE) {
        table->free_row = table->rows[slot].newer;
    } else {
        slot = table->unused_row++;
    }
    table->rows[slot] = (struct dq_session_row){.first = DQ_NONE, .newer = DQ_NONE, .older = DQ_NONE};
    return slot;
}

void dq_table_link_newest(struct dq_session_table *table, uint32_t slot) {
    struct dq_session_row *row = &table->rows[slot];
    row->newer = DQ_NONE;
    row->older = table->newest;
    *(table->newest == DQ_NONE ? &table->oldest : &table->rows[table->newest].newer) = slot;
    table->newest = slot;
    table->rows_size += row->size;
}

void dq_table_free_row(struct dq_session_table *table, uint32_t slot) {
    table->rows[slot].newer = table->free_row;
    table->free_row = slot;
}

void dq_table_drop_row(struct dq_session_table *table, uint32_t slot) {
    struct dq_session_row *row = &table->rows[slot];
    while (row->first != DQ_NONE) {
        uint32_t session = row->first;
        dq_table_detach(table, session);
        dq_table_remove(table, session);
    }
    *(row->older == DQ_NONE ? &table->oldest : &table->rows[row->older].newer) = row->newer;
    *(row->newer == DQ_NONE ? &table->newest : &table->rows[row->newer].older) = row->older;
    table->rows_size -= row->size;
    dq_table_free_row(table, slot);
}
