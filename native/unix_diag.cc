#include "unix_diag.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>

#include "files.h"
#include "sys.h"

namespace unix_diag {
namespace {

int query(int netlink, uint64_t inode, uint32_t* queued, uint32_t* limit) {
  struct {
    nlmsghdr header;
    unix_diag_req body;
  } request = {};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.body.sdiag_family = AF_UNIX;
  request.body.udiag_states = UINT32_MAX;
  request.body.udiag_ino = static_cast<uint32_t>(inode);
  request.body.udiag_show = UDIAG_SHOW_RQLEN;
  request.body.udiag_cookie[0] = request.body.udiag_cookie[1] = UINT32_MAX;  // INET_DIAG_NOCOOKIE matches any socket
  ssize_t sent = sys::send(netlink, &request, sizeof request);
  if (sent < 0) return static_cast<int>(sent);

  // The kernel answers during send(2), so this does not wait. -EAGAIN means that there is no answer.
  alignas(nlmsghdr) char answer[1024];
  ssize_t size = sys::recv(netlink, answer, sizeof answer);
  if (size < 0) return static_cast<int>(size);
  auto* header = reinterpret_cast<nlmsghdr*>(answer);
  if (!NLMSG_OK(header, static_cast<uint32_t>(size))) return -EBADMSG;
  const size_t length = NLMSG_PAYLOAD(header, 0);
  if (header->nlmsg_type == NLMSG_ERROR && length >= sizeof(nlmsgerr)) {
    return static_cast<nlmsgerr*>(NLMSG_DATA(header))->error;
  }
  if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY) return -EBADMSG;
  auto* body = static_cast<unix_diag_msg*>(NLMSG_DATA(header));
  int left = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof *body));
  for (auto* attribute = reinterpret_cast<rtattr*>(body + 1); RTA_OK(attribute, left);
       attribute = RTA_NEXT(attribute, left)) {
    if (attribute->rta_type != UNIX_DIAG_RQLEN || RTA_PAYLOAD(attribute) < sizeof(unix_diag_rqlen)) continue;
    auto* lengths = static_cast<unix_diag_rqlen*>(RTA_DATA(attribute));
    *queued = lengths->udiag_rqueue;
    *limit = lengths->udiag_wqueue;
    return 0;
  }
  return -ENODATA;
}

int find(uint64_t inode, uint32_t* queued, uint32_t* limit) {
  int netlink = sys::socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
  if (netlink < 0) return netlink;
  int error = query(netlink, inode, queued, limit);
  sys::close(netlink);
  return error;
}

}  // namespace

int accept_queue(int fd, uint32_t* queued, uint32_t* limit) {
  sys::File file;
  int error = files::identify(fd, &file);
  return error == 0 ? find(file.inode, queued, limit) : error;
}

int exists(uint64_t inode) {
  uint32_t queued;
  uint32_t limit;
  return find(inode, &queued, &limit);
}

}  // namespace unix_diag
