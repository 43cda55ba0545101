# net-ldap, as Ruby applications use it. Reads its task from the environment, prints one "name=value" line per check.

require 'net/ldap'
require 'uri'

$stdout.set_encoding('UTF-8')

def connection(dn, password, encryption: nil, secure: false)
  uri = URI(ENV.fetch(secure ? 'LDAPS_URL' : 'LDAP_URL'))
  Net::LDAP.new(
    host: uri.host, port: uri.port, base: ENV.fetch('USERS'), encryption: encryption,
    auth: { method: :simple, username: dn, password: password }
  )
end

def refusal(dn, password)
  link = connection(dn, password)
  link.bind ? 'accepted' : link.get_operation_result.code
end

def values(link, filter, name, **options)
  found = link.search(filter: filter, attributes: [name], **options)
  raise link.get_operation_result.message if found.nil?

  # net-ldap hands out bytes.
  found.flat_map { |entry| entry[name].map { |value| value.dup.force_encoding('UTF-8') } }.sort
end

def encrypted(method, certificate, secure)
  options = { ca_file: certificate, verify_mode: OpenSSL::SSL::VERIFY_PEER }
  link = connection(
    ENV.fetch('SEARCH_DN'), ENV.fetch('SEARCH_PASSWORD'),
    encryption: { method: method, tls_options: options }, secure: secure
  )
  values(link, Net::LDAP::Filter.eq('cn', 'alice'), 'cn') == ['alice']
rescue OpenSSL::SSL::SSLError, Net::LDAP::Error => error
  raise unless error.message.include?('certificate verify failed')

  'untrusted'
end

puts "wrong=#{refusal(ENV.fetch('ALICE_DN'), 'wrong')}"
puts "alice=#{refusal(ENV.fetch('ALICE_DN'), ENV.fetch('ALICE_PASSWORD'))}"
puts "joerg=#{refusal(ENV.fetch('JOERG_DN'), ENV.fetch('JOERG_PASSWORD'))}"

link = connection(ENV.fetch('SEARCH_DN'), ENV.fetch('SEARCH_PASSWORD'))
puts "name=#{values(link, Net::LDAP::Filter.eq('sAMAccountName', ENV.fetch('JOERG_NAME')), 'displayName').first}"
puts "people=#{values(link, Net::LDAP::Filter.eq('objectClass', 'user'), 'cn', paged_searches_supported: true).join(',')}"
puts "staff=#{values(link, Net::LDAP::Filter.eq('memberOf', ENV.fetch('STAFF_DN')), 'cn').join(',')}"

# How applications log somebody in: search the name, bind as what was found.
found = link.bind_as(
  base: ENV.fetch('USERS'), filter: Net::LDAP::Filter.eq('mail', 'alice@example.org'),
  password: ENV.fetch('ALICE_PASSWORD')
)
puts "bind_as=#{found ? found.first.dn : 'refused'}"
found = link.bind_as(base: ENV.fetch('USERS'), filter: Net::LDAP::Filter.eq('cn', 'alice'), password: 'wrong')
puts "bind_as_wrong=#{found ? found.first.dn : 'refused'}"

puts "starttls=#{encrypted(:start_tls, ENV.fetch('CERTIFICATE'), false)}"
puts "ldaps=#{encrypted(:simple_tls, ENV.fetch('CERTIFICATE'), true)}"
puts "other=#{encrypted(:start_tls, ENV.fetch('OTHER_CERTIFICATE'), false)}"
