// asio_echo: a TCP echo server with asio (libasio-dev of Debian), which uses completion ports on
// Windows. A peer of the benchmarks, written as asio's own documentation has it: a session that
// reads some and writes all, one acceptor.
//
//   x86_64-w64-mingw32-g++-posix -std=c++14 -O2 -static -idirafter /usr/include
//       bench/peers/asio_echo.cpp -o asio_echo.exe -lws2_32 -lmswsock
//
//   asio_echo --port 7777 --threads 1
#define ASIO_STANDALONE
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0601
#endif
#include <asio.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

using asio::ip::tcp;

class session : public std::enable_shared_from_this<session>
{
  public:
    explicit session(tcp::socket socket) : socket_(std::move(socket)), bytes_(16384)
    {
    }

    void read()
    {
        auto self = shared_from_this();
        socket_.async_read_some(asio::buffer(bytes_),
                                [this, self](std::error_code error, std::size_t size) {
                                    if (!error) write(size);
                                });
    }

  private:
    void write(std::size_t size)
    {
        auto self = shared_from_this();
        asio::async_write(socket_, asio::buffer(bytes_, size),
                          [this, self](std::error_code error, std::size_t) {
                              if (!error) read();
                          });
    }

    tcp::socket socket_;
    std::vector<char> bytes_;
};

static void accept_next(tcp::acceptor &acceptor)
{
    acceptor.async_accept([&acceptor](std::error_code error, tcp::socket socket) {
        if (!error) {
            socket.set_option(tcp::no_delay(true), error);
            std::make_shared<session>(std::move(socket))->read();
        }
        accept_next(acceptor);
    });
}

int main(int argc, char **argv)
{
    int port = 0, threads = 1;
    for (int i = 1; i < argc; i += 2) {
        bool value = i + 1 < argc;
        if (value && !std::strcmp(argv[i], "--port")) {
            port = std::atoi(argv[i + 1]);
        } else if (value && !std::strcmp(argv[i], "--threads")) {
            threads = std::atoi(argv[i + 1]);
        } else {
            std::fprintf(stderr, "usage: asio_echo [--port N] [--threads N]\n");
            return 2;
        }
    }
    try {
        asio::io_context context(threads);  // the number of threads is a hint: with 1 it locks less
        tcp::acceptor acceptor(context, tcp::endpoint(asio::ip::address_v4::loopback(),
                                                      static_cast<unsigned short>(port)));
        asio::signal_set signals(context, SIGINT, SIGTERM);
        signals.async_wait([&context](std::error_code, int) { context.stop(); });
        accept_next(acceptor);
        std::printf("listening on 127.0.0.1:%d\n", acceptor.local_endpoint().port());
        std::fflush(stdout);
        std::vector<std::thread> others;
        for (int i = 1; i < threads; i++)
            others.emplace_back([&context] { context.run(); });
        context.run();
        for (std::thread &thread : others)
            thread.join();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "asio_echo: %s\n", error.what());
        return 1;
    }
    return 0;
}
