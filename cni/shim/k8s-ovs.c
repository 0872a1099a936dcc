/* The CNI executable: hands a call of the container runtime to the node's agent, and the answer back.
 *
 * It forwards, it does not think. Its environment and standard input go to the agent's Unix socket; standard output
 * and exit status are what the agent says. It thinks for itself only where there is nobody to ask:
 *
 *   - VERSION tells what this executable supports;
 *   - with the agent away, ADD, CHECK and GC answer "try again later" and STATUS "not available", at once;
 *   - with the agent away, a DEL is written into a spool directory beside the socket and succeeds, so that pods do
 *     not hang; the agent carries it out when it starts. One that it never could is refused at once.
 *
 * docs/cni.md describes the protocol of the socket and the error codes.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/k8sovs/cni.sock"
#define LATEST_VERSION "1.1.0"
#define SUPPORTED_VERSIONS "[\"0.3.0\", \"0.3.1\", \"0.4.0\", \"1.0.0\", \"1.1.0\"]"
#define CONTAINER_ID_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
#define CONTAINER_ID_LENGTH 255
#define STDIN_LIMIT ((size_t)1 << 20)
#define ANSWER_LIMIT ((size_t)1 << 20)
#ifndef DEADLINE_S
#define DEADLINE_S 110 /* the container runtime has its own of 120 or more */
#endif

/* Well-known error codes of the CNI specification. */
enum code {
    INCOMPATIBLE_VERSION = 1,
    INVALID_ENVIRONMENT = 4,
    IO_FAILURE = 5,
    DECODING_FAILURE = 6,
    INVALID_CONFIG = 7,
    TRY_AGAIN_LATER = 11,
    NOT_AVAILABLE = 50,
};

/* ---- answering ------------------------------------------------------------------------------------------------ */

static char version[32] = LATEST_VERSION; /* cniVersion of the answer: that of the call, once it is known */
static bool version_named, socket_named;  /* whether the call has these fields */

static void write_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, data, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            exit(1); /* standard output is gone: there is nobody left to tell */
        data += written;
        length -= (size_t)written;
    }
}

/* Answer with a CNI error and end. The message must not need escaping in JSON: no quotes, backslashes, controls. */
static _Noreturn void fail(enum code code, const char *format, ...) __attribute__((format(printf, 2, 3)));
static _Noreturn void fail(enum code code, const char *format, ...)
{
    char message[512], answer[640];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    int length = snprintf(answer, sizeof answer, "{\"cniVersion\": \"%s\", \"code\": %d, \"msg\": \"%s\"}\n", version,
                          (int)code, message);
    write_all(STDOUT_FILENO, answer, (size_t)length);
    exit(1);
}

/* ---- waiting, never beyond the deadline ------------------------------------------------------------------------ */

static long long milliseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static long long deadline;

static int remaining_ms(void)
{
    long long left = deadline - milliseconds(CLOCK_MONOTONIC);
    return left > 0 ? (int)left : 0;
}

static bool wait_ready(int fd, short events)
{
    struct pollfd poller = {.fd = fd, .events = events};
    int ready;
    do
        ready = poll(&poller, 1, remaining_ms());
    while (ready < 0 && errno == EINTR);
    return ready > 0;
}

/* ---- bytes ----------------------------------------------------------------------------------------------------- */

struct buffer {
    char *data;
    size_t length, room;
};

static void append(struct buffer *buffer, const char *data, size_t length)
{
    if (buffer->length + length > buffer->room) {
        buffer->room = 2 * (buffer->length + length);
        buffer->data = realloc(buffer->data, buffer->room);
        if (!buffer->data)
            fail(IO_FAILURE, "out of memory");
    }
    memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
}

static struct buffer read_stdin(void)
{
    struct buffer input = {0};
    char chunk[16384];
    for (;;) {
        if (!wait_ready(STDIN_FILENO, POLLIN))
            fail(IO_FAILURE, "standard input was still open after %d s", DEADLINE_S);
        ssize_t got = read(STDIN_FILENO, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            fail(IO_FAILURE, "reading standard input: %s", strerror(errno));
        if (got == 0)
            return input;
        append(&input, chunk, (size_t)got);
        if (input.length > STDIN_LIMIT)
            fail(DECODING_FAILURE, "the network configuration on standard input is longer than 1 MiB");
    }
}

/* ---- the two fields of the network configuration that matter here ------------------------------------------------ */

/* A position in a JSON text. Every step is bounded by `end`; `text` is NULL once something was not JSON. */
struct scanner {
    const char *text, *end;
};

struct string {
    const char *start; /* NULL: the value was no string */
    size_t length;
    bool escaped;
};

static void skip_space(struct scanner *scanner)
{
    while (scanner->text && scanner->text < scanner->end && memchr(" \t\r\n", *scanner->text, 4))
        scanner->text++;
}

static bool take(struct scanner *scanner, char wanted)
{
    skip_space(scanner);
    if (!scanner->text || scanner->text == scanner->end || *scanner->text != wanted)
        return false;
    scanner->text++;
    return true;
}

static void expect(struct scanner *scanner, char wanted)
{
    if (!take(scanner, wanted))
        scanner->text = NULL;
}

static struct string scan_string(struct scanner *scanner)
{
    struct string string = {0};
    expect(scanner, '"');
    if (!scanner->text)
        return string;
    string.start = scanner->text;
    for (; scanner->text < scanner->end; scanner->text++) {
        if (*scanner->text == '"') {
            string.length = (size_t)(scanner->text++ - string.start);
            return string;
        }
        if (*scanner->text == '\\') {
            string.escaped = true;
            if (++scanner->text == scanner->end)
                break;
        }
    }
    scanner->text = NULL; /* it never ended */
    return string;
}

/* Pass over an object, array, number or word. Inside brackets only strings need care; the agent parses the rest. */
static void skip_value(struct scanner *scanner)
{
    const char *start = scanner->text;
    size_t depth = 0;
    while (scanner->text && scanner->text < scanner->end) {
        char next = *scanner->text;
        if (depth == 0 && memchr(",}] \t\r\n", next, 7))
            break;
        if (next == '"' && depth > 0) {
            scan_string(scanner);
            continue;
        }
        scanner->text++;
        if (next == '{' || next == '[')
            depth++;
        else if ((next == '}' || next == ']') && --depth == 0)
            return;
    }
    if (depth > 0 || scanner->text == start)
        scanner->text = NULL;
}

/* Text that reads the same in JSON and outside, so that it can be used, and shown in an error, as it is. */
static bool plain(struct string string)
{
    bool good = string.start && string.length > 0 && !string.escaped;
    for (size_t i = 0; good && i < string.length; i++)
        good = (unsigned char)string.start[i] >= ' ' && string.start[i] != 127;
    return good;
}

static void note(struct string key, struct string value, char *socket_path, size_t room)
{
    if (key.length == 10 && !memcmp(key.start, "cniVersion", 10)) {
        if (plain(value) && value.length < sizeof version && strspn(value.start, "0123456789.") == value.length) {
            memcpy(version, value.start, value.length);
            version[value.length] = '\0';
            version_named = true;
        }
    } else if (key.length == 6 && !memcmp(key.start, "socket", 6)) {
        if (!plain(value) || value.length >= room || value.start[0] != '/')
            fail(INVALID_CONFIG, "socket: must be an absolute path of less than %zu plain characters", room);
        memcpy(socket_path, value.start, value.length);
        socket_path[value.length] = '\0';
        socket_named = true;
    }
}

/* Read `cniVersion` into `version` and `socket` into `socket_path`; where a field is missing the default stays. */
static void scan_conf(const struct buffer *conf, char *socket_path, size_t room)
{
    struct scanner scanner = {conf->data, conf->data + conf->length};
    expect(&scanner, '{');
    if (!take(&scanner, '}')) {
        do {
            struct string value = {0}, key = scan_string(&scanner);
            expect(&scanner, ':');
            skip_space(&scanner);
            if (scanner.text && scanner.text < scanner.end && *scanner.text == '"')
                value = scan_string(&scanner);
            else
                skip_value(&scanner);
            if (scanner.text)
                note(key, value, socket_path, room);
        } while (take(&scanner, ','));
        expect(&scanner, '}');
    }
    skip_space(&scanner);
    if (!scanner.text || scanner.text != scanner.end)
        fail(DECODING_FAILURE, "the network configuration on standard input is not a JSON object");
}

/* ---- talking to the agent ---------------------------------------------------------------------------------------- */

enum outcome {
    ANSWERED,
    AWAY, /* nobody listens, or the agent ended before it had answered */
    LATE, /* no answer before the deadline */
};

/* The request: each CNI variable as NAME=VALUE, an empty string, then standard input; strings end with a zero byte. */
static struct buffer make_request(const struct buffer *conf)
{
    extern char **environ;
    struct buffer request = {0};
    for (char **variable = environ; *variable; variable++)
        if (!strncmp(*variable, "CNI_", 4))
            append(&request, *variable, strlen(*variable) + 1);
    append(&request, "", 1);
    if (conf->length > 0)
        append(&request, conf->data, conf->length);
    return request;
}

static enum outcome connect_agent(int fd, const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, socket_path);
    int left = remaining_ms();
    struct timeval limit = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000 + 1}; /* zero would mean for ever */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (!connect(fd, (struct sockaddr *)&address, sizeof address))
        return ANSWERED;
    if (errno == EAGAIN || errno == EINTR) /* its queue stayed full */
        return LATE;
    if (errno != ENOENT && errno != ECONNREFUSED && errno != ECONNRESET)
        fail(IO_FAILURE, "connecting to the agent at %s: %s", socket_path, strerror(errno));
    return AWAY;
}

static enum outcome send_request(int fd, const struct buffer *request)
{
    for (size_t sent = 0; sent < request->length;) {
        if (!wait_ready(fd, POLLOUT))
            return LATE;
        ssize_t taken = send(fd, request->data + sent, request->length - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (taken >= 0)
            sent += (size_t)taken;
        else if (errno != EINTR && errno != EAGAIN)
            break; /* it takes no more, but may have said why */
    }
    shutdown(fd, SHUT_WR);
    return ANSWERED;
}

static enum outcome read_answer(int fd, struct buffer *answer)
{
    char chunk[16384];
    answer->length = 0;
    for (;;) {
        if (!wait_ready(fd, POLLIN))
            return LATE;
        ssize_t got = read(fd, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return answer->length > 0 ? ANSWERED : AWAY;
        append(answer, chunk, (size_t)got);
        if (answer->length > ANSWER_LIMIT)
            fail(IO_FAILURE, "the answer of the agent is longer than 1 MiB");
    }
}

static enum outcome ask_agent(const char *socket_path, const struct buffer *request, struct buffer *answer)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail(IO_FAILURE, "creating a socket: %s", strerror(errno));
    enum outcome outcome = connect_agent(fd, socket_path);
    if (outcome == ANSWERED)
        outcome = send_request(fd, request);
    if (outcome == ANSWERED)
        outcome = read_answer(fd, answer);
    close(fd);
    return outcome;
}

/* The answer: exit status in decimal, a newline, then what goes to standard output. */
static _Noreturn void finish(const struct buffer *answer)
{
    size_t digits = 0;
    int status = 0;
    while (digits < answer->length && digits < 3 && answer->data[digits] >= '0' && answer->data[digits] <= '9')
        status = status * 10 + (answer->data[digits++] - '0');
    if (digits == 0 || digits == answer->length || answer->data[digits] != '\n')
        fail(IO_FAILURE, "the answer of the agent does not begin with an exit status");
    write_all(STDOUT_FILENO, answer->data + digits + 1, answer->length - digits - 1);
    exit(status);
}

/* ---- a DEL while the agent is away ------------------------------------------------------------------------------- */

/* Refuse a DEL that the agent would refuse whenever it came. What else can be wrong with one, the agent's log says. */
static void check_worth_keeping(void)
{
    const char *id = getenv("CNI_CONTAINERID");
    char quoted[sizeof version + 2];
    snprintf(quoted, sizeof quoted, "\"%s\"", version);
    if (!version_named || !strstr(SUPPORTED_VERSIONS, quoted))
        fail(INCOMPATIBLE_VERSION, "cniVersion is missing or not supported");
    if (!socket_named)
        fail(INVALID_CONFIG, "socket: is missing, so this DEL cannot be kept for the agent, which is away");
    if (!id || !isalnum((unsigned char)*id) || id[strspn(id, CONTAINER_ID_LETTERS)] || strlen(id) > CONTAINER_ID_LENGTH)
        fail(INVALID_ENVIRONMENT, "CNI_CONTAINERID is missing or cannot be used");
}

static _Noreturn void spool_failed(const char *path)
{
    fail(IO_FAILURE, "the agent is away, and this DEL cannot be kept for it in %s: %s", path, strerror(errno));
}

/* Keep the request for the agent's next start. Returns the file's path; names sort by time. */
static const char *spool(const char *socket_path, const struct buffer *request)
{
    static char directory[sizeof(struct sockaddr_un) + 16], hidden[sizeof directory + 64], path[sizeof hidden];
    int parent = (int)(strrchr(socket_path, '/') - socket_path);
    snprintf(directory, sizeof directory, "%.*s", parent, socket_path);
    mkdir(directory, 0755); /* /run is empty after a boot; whether it worked shows below */
    snprintf(directory, sizeof directory, "%.*s/spool", parent, socket_path);
    mkdir(directory, 0700);

    char name[48];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(name, sizeof name, "%012lld.%09ld-%d", (long long)now.tv_sec, now.tv_nsec, (int)getpid());
    snprintf(path, sizeof path, "%s/%s", directory, name);
    snprintf(hidden, sizeof hidden, "%s/.%s", directory, name); /* the agent passes over hidden files */
    int fd = open(hidden, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        spool_failed(directory);
    for (size_t done = 0; done < request->length;) {
        ssize_t written = write(fd, request->data + done, request->length - done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            spool_failed(directory);
        done += (size_t)written;
    }
    if (fsync(fd) || close(fd) || rename(hidden, path))
        spool_failed(directory);
    return path;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static _Noreturn void fail_late(bool status_call)
{
    fail(status_call ? NOT_AVAILABLE : TRY_AGAIN_LATER, "the k8s-ovs agent gave no answer within %d s; see its log",
         DEADLINE_S);
}

int main(void)
{
    deadline = milliseconds(CLOCK_MONOTONIC) + DEADLINE_S * 1000;
    signal(SIGPIPE, SIG_IGN);

    const char *command = getenv("CNI_COMMAND");
    if (!command || !*command)
        fail(INVALID_ENVIRONMENT, "CNI_COMMAND is not set; this is a CNI plugin, called by a container runtime");

    char socket_path[sizeof((struct sockaddr_un){0}.sun_path)] = DEFAULT_SOCKET;
    struct buffer conf = read_stdin(), answer = {0};
    if (conf.length > 0 || strcmp(command, "VERSION") != 0)
        scan_conf(&conf, socket_path, sizeof socket_path);
    if (!strcmp(command, "VERSION")) {
        printf("{\"cniVersion\": \"%s\", \"supportedVersions\": %s}\n", version, SUPPORTED_VERSIONS);
        return 0;
    }

    struct buffer request = make_request(&conf);
    bool status_call = !strcmp(command, "STATUS");
    enum outcome outcome = ask_agent(socket_path, &request, &answer);
    if (outcome == AWAY && !strcmp(command, "DEL")) {
        check_worth_keeping();
        const char *spooled = spool(socket_path, &request);
        /* An agent that started meanwhile may have read the spool before this file was there: ask once more. */
        outcome = ask_agent(socket_path, &request, &answer);
        if (outcome == AWAY)
            return 0;
        unlink(spooled);
    }
    if (outcome == AWAY)
        fail(status_call ? NOT_AVAILABLE : TRY_AGAIN_LATER, "the k8s-ovs agent is not running: nobody answers at %s",
             socket_path);
    if (outcome == LATE)
        fail_late(status_call);
    finish(&answer);
}
